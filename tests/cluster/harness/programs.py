"""Where the programs of a cluster are: built from Go modules, or brought along in KUBEBUILDER_ASSETS."""

import functools
import os
import pathlib
import shutil
import subprocess

SUITE = pathlib.Path(__file__).resolve().parents[1]
REPOSITORY = SUITE.parents[1]


@functools.cache
def built():
    """The folder of programs that `kube/build` makes."""
    done = subprocess.run([SUITE / "kube/build"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, "the programs of the cluster are not built: see above"
    return pathlib.Path(done.stdout.strip())


def assets():
    """The folder of KUBEBUILDER_ASSETS, if it is set: etcd, kube-apiserver, kubectl and often nothing else."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return pathlib.Path(folder) if folder else None


def plane(name):
    """A program of the plane, or `None` when KUBEBUILDER_ASSETS does not hold it."""
    path = (assets() or built()) / name
    return path if path.exists() else None


def client(name):
    """kubectl, helm or helm3; `None` when KUBEBUILDER_ASSETS is set and neither that nor the PATH has it."""
    found = plane(name) or shutil.which(name)
    return pathlib.Path(found) if found else None


def gateway():
    """The `tollgate` under test."""
    path = pathlib.Path(os.environ.get("TOLLGATE_BIN", REPOSITORY / "target/debug/tollgate"))
    assert path.exists(), f"{path} is not built: run tests/run cluster"
    return path


def previous_gateway():
    """The `tollgate` of another version, for tests of upgrades."""
    return pathlib.Path(os.environ["TOLLGATE_PREVIOUS_BIN"])


def static_gateway():
    """The same, linked statically: what an image holds."""
    path = pathlib.Path(os.environ.get("TOLLGATE_STATIC_BIN", REPOSITORY / "target/static/debug/tollgate"))
    assert path.exists(), f"{path} is not built: run tests/run cluster node"
    return path

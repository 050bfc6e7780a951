"""Runs helm, kubectl, promtool and tollgate, and reads what the chart renders."""

import functools
import os
import pathlib
import subprocess

import yaml

SUITE = pathlib.Path(__file__).resolve().parent
ROOT = SUITE.parents[1]
CHART = ROOT / "charts/tollgate"
CRDS_CHART = ROOT / "charts/tollgate-crds"
NAMESPACE = "tollgate"
# For what is rendered without a cluster: else each helm takes what it was compiled with.
KUBERNETES = "1.36.3"
VALUES = {path.stem: path for path in sorted((SUITE / "values").glob("*.yaml"))}
# None: the chart's own.
SETS = [None, *VALUES]


@functools.cache
def programs():
    """The folder with helm (4), helm3 and kubectl."""
    done = subprocess.run([ROOT / "tests/cluster/kube/build"], stdout=subprocess.PIPE, text=True, check=True)
    return pathlib.Path(done.stdout.strip())


def program(name):
    """HELM, HELM3 and KUBECTL name others than what `tests/cluster/kube/build` makes."""
    return os.environ.get(name.upper()) or programs() / name


def promtool():
    """From Debian's prometheus."""
    return os.environ.get("PROMTOOL", "promtool")


def tollgate():
    return pathlib.Path(os.environ.get("TOLLGATE_BIN", ROOT / "target/debug/tollgate"))


def run(*command, **options):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def values_of(name):
    return [] if name is None else ["--values", VALUES[name]]


@functools.cache
def text_of(name, helm="helm", chart=CHART, sets=()):
    """What the chart renders with a set of values, and with single ones."""
    settings = [part for one in sets for part in ("--set", one)]
    command = [program(helm), "template", "tollgate", chart, "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    command += [*values_of(name), *settings]
    return run(*command)


def objects_of(*arguments, **options):
    return [one for one in yaml.load_all(text_of(*arguments, **options), UniqueKeys) if one]


def identity(one):
    """Group, kind, namespace, name."""
    group, _, _ = one["apiVersion"].rpartition("/")
    return group, one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]


class UniqueKeys(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
    """Refuses a key that is written twice: API servers and Helm 4 do, YAML readers in general do not."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        assert not twice, f"written twice: {sorted(twice)} at {node.start_mark}"
        return super().construct_mapping(node, deep)

"""A control group of a run's own, under which its kubelet puts pods: two kubelets that share one end each other's pods."""

import pathlib
import time

ROOT = pathlib.Path("/sys/fs/cgroup")
# The controllers without which a kubelet does not take a group.
KUBELETS = {"cpu", "cpuset", "hugetlb", "memory", "pids"}
# From the end of a process to the moment that its group counts as empty.
EMPTY_SECONDS = 20


def _hierarchies():
    """The folders of all hierarchies: one with version 2, one for each controller with version 1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    # `cpu` and `cpuacct` may be two names of one.
    return sorted({entry.resolve() for entry in ROOT.iterdir() if (entry / "cgroup.procs").exists()}) if ROOT.exists() else []


def make(name):
    for hierarchy in _hierarchies():
        group = hierarchy / name
        group.mkdir()
        if (group / "cpuset.cpus").exists() and not (group / "cgroup.controllers").exists():
            # With version 1 a new group has no processors until it is told some.
            for file in ["cpuset.cpus", "cpuset.mems"]:
                (group / file).write_text((hierarchy / file).read_text())
        if (group / "cgroup.controllers").exists():
            # With version 2 it has the controllers that its parent passes on.
            for controller in KUBELETS.intersection((hierarchy / "cgroup.controllers").read_text().split()):
                (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(name):
    """Once its processes were killed; waits until they are gone."""
    deadline = time.monotonic() + EMPTY_SECONDS
    for hierarchy in _hierarchies():
        # Deepest first.
        groups = sorted((hierarchy / name).rglob("cgroup.procs"), key=lambda file: len(file.parts), reverse=True)
        for group in [file.parent for file in groups]:
            while True:
                try:
                    group.rmdir()
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise AssertionError(f"{group} still holds processes: {(group / 'cgroup.procs').read_text().split()}") from error
                    time.sleep(0.02)

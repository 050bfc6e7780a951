"""Fixtures: a control plane, a cluster that runs pods, a namespace for each test. Both levels are started once a session,
when the first test wants them."""

import pathlib
import signal
import time

import pytest

from harness import foreign
from harness.plane import Plane
from harness.run_folder import RunFolder

LOG_LINES = 30

timings = pytest.StashKey()


def pytest_configure(config):
    config.stash[timings] = []
    # So that fixtures end what they started: the default of this signal would end only Python.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("asked to stop", returncode=143))


def pytest_collection_modifyitems(items):
    """A test belongs to the level whose fixture it takes, so `-m plane` and `-m node` select without a word in the test."""
    for item in items:
        item.add_marker("node" if "node" in item.fixturenames else "plane")


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash[timings]:
        terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of what the cluster's programs said meanwhile."""
    report = yield
    if report.failed and call.when == "call":
        cluster = item.funcargs.get("node") or item.funcargs.get("plane")
        for process in getattr(cluster, "processes", []):
            report.sections.append((f"log of {process.name}", process.story(LOG_LINES)))
    return report


@pytest.fixture(scope="session")
def run_folder():
    """The folder of this run; removed at its end, and at the begin of the next when this one is killed."""
    folder = RunFolder()
    yield folder
    folder.remove()


@pytest.fixture(scope="session")
def plane(run_folder, request):
    """An API server with its controllers: the one of KUBECONFIG, else one of our own."""
    if foreign.kubeconfig():
        cluster = foreign.Foreign(run_folder.path)
    else:
        begun = time.monotonic()
        folder = run_folder.path / "plane"
        folder.mkdir()
        cluster = Plane(folder)
        request.config.stash[timings].append(f"control plane ready in {time.monotonic() - begun:.1f} s")
    yield cluster
    cluster.stop()


@pytest.fixture
def own_plane(plane):
    """A control plane that tests may stop, pause and read the audit log of."""
    if not isinstance(plane, Plane):
        pytest.skip("not on a cluster of others: unset KUBECONFIG to run it on one of our own")
    return plane


@pytest.fixture
def cluster(request):
    """The cluster of this test: `node` if it takes that, else `plane`."""
    return request.getfixturevalue("node" if "node" in request.fixturenames else "plane")


@pytest.fixture
def crds(cluster):
    """Tollgate's CustomResourceDefinitions are there."""
    cluster.install_crds()


@pytest.fixture
def namespace(cluster, request):
    """The name of a new namespace, named after the test; deleted afterwards."""
    name = cluster.make_namespace(request.node.name.removeprefix("test_"))
    yield name
    cluster.delete_namespace(name)


@pytest.fixture(scope="session")
def samples():
    """The documents of crds/tests/samples.yaml, every kind as users write it, as text."""
    return (pathlib.Path(__file__).resolve().parents[2] / "crds/tests/samples.yaml").read_text()

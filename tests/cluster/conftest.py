"""Fixtures: a control plane, a cluster that runs pods, a namespace for each test. Both levels are started once a session,
when the first test wants them."""

import os
import pathlib
import signal
import time

import pytest

from harness import foreign, images, story
from harness.client_pod import ClientPod
from harness.installation import Installation
from harness.mock import Mock
from harness.node import Node
from harness.operator import Operator
from harness.plane import Plane
from harness.redis import Redis
from harness.run_folder import RunFolder

LOG_LINES = 15

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
    """A failed test shows what is in its namespace and the end of what the cluster's programs said meanwhile."""
    report = yield
    if report.failed and call.when != "teardown":
        cluster = item.funcargs.get("node") or item.funcargs.get("plane")
        for process in getattr(cluster, "processes", []):
            report.sections.append((f"log of {process.name}", process.story(LOG_LINES)))
        if cluster and "namespace" in item.funcargs:
            report.sections.append(("namespace of the test", story.of_namespace(cluster, item.funcargs["namespace"])))
        if cluster and "tollgate" in item.funcargs:
            report.sections.append(("namespace of the gateway", story.of_namespace(cluster, item.funcargs["tollgate"].namespace)))
            report.sections.append(("namespace of the tenant", story.of_namespace(cluster, item.funcargs["tollgate"].tenant)))
    return report


@pytest.fixture(scope="session")
def run_folder():
    """The folder of this run; removed at its end, and at the begin of the next when this one is killed."""
    folder = RunFolder()
    yield folder
    folder.remove()


@pytest.fixture(scope="session")
def timed(request):
    """`timed(what, make)` is `make()`; how long it took is in the summary."""
    def run(what, make):
        begun = time.monotonic()
        made = make()
        request.config.stash[timings].append(f"{what} in {time.monotonic() - begun:.1f} s")
        return made
    return run


@pytest.fixture(scope="session")
def plane(run_folder, timed):
    """An API server with its controllers: the one of KUBECONFIG, else one of our own."""
    folder = run_folder.path / "plane"
    folder.mkdir()
    if foreign.kubeconfig():
        cluster = foreign.Foreign(folder)
    else:
        cluster = timed("control plane ready", lambda: Plane(folder))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def node(run_folder, timed):
    """A cluster that runs pods: the one of KUBECONFIG, else one of our own."""
    folder = run_folder.path / "node"
    folder.mkdir()
    if foreign.kubeconfig():
        cluster = foreign.Foreign(folder)
    else:
        lacks = os.environ.get("TOLLGATE_NODE_LACKS")
        if lacks:
            pytest.skip(f"no pods can run on this machine, which lacks {lacks}")
        cluster = timed("node ready", lambda: Node(folder, run_folder.name))
    yield cluster
    cluster.stop()


@pytest.fixture
def own_plane(plane):
    """A control plane that tests may stop, pause and read the audit log of."""
    return _ours(plane, Plane)


@pytest.fixture
def start(own_plane, crds, namespace):
    """Starts operators of a test's namespace, one after the other or beside each other, each a user of its own; ends them."""
    started = []

    def start(name, kubeconfig=None):
        kubeconfig = kubeconfig or own_plane.make_kubeconfig(name, ["system:masters"])
        started.append(Operator(own_plane, name, [namespace], kubeconfig))
        return started[-1]

    yield start
    for operator in started:
        operator.kill()


@pytest.fixture
def mock(own_plane):
    mock = Mock(own_plane)
    yield mock
    mock.process.kill()


@pytest.fixture
def redis(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.process.kill()


@pytest.fixture
def own_node(node):
    """A node that is ours."""
    return _ours(node, Node)


def _ours(cluster, kind):
    if not isinstance(cluster, kind):
        pytest.skip("not on a cluster of others: unset KUBECONFIG to run it on one of our own")
    return cluster


@pytest.fixture(scope="session")
def gateway_image(node, timed, run_folder):
    """The name of an image of the gateway under test that pods can use."""
    return _image(node, timed, run_folder, images.GATEWAY, images.gateway, "TOLLGATE_IMAGE")


@pytest.fixture(scope="session")
def client_image(node, timed, run_folder):
    """The name of an image with Python and the `openai` package."""
    return _image(node, timed, run_folder, images.CLIENT, images.client, "TOLLGATE_CLIENT_IMAGE")


def _image(node, timed, run_folder, name, make, variable):
    """On a cluster of others the image is there already, under the name that `variable` says."""
    if isinstance(node, Node):
        timed(f"{name} loaded", lambda: node.load(make(run_folder.path)))
        return name
    if not os.environ.get(variable):
        pytest.skip(f"put the image on the cluster and its name into {variable}")
    return os.environ[variable]


@pytest.fixture(scope="module")
def tollgate(node, gateway_image, timed, request):
    """Tollgate installed by its charts, for the tests of one file."""
    installed = timed(f"Tollgate installed for {request.path.name}", lambda: Installation(node, gateway_image))
    yield installed
    installed.uninstall()
    for namespace in (installed.tenant, installed.namespace):
        node.delete_namespace(namespace)


@pytest.fixture(scope="module")
def agent(node, tollgate, client_image):
    """A pod in the tenant's namespace that runs Python scripts."""
    return ClientPod(node, tollgate.tenant, client_image, "agent")


@pytest.fixture
def client(node, namespace, client_image):
    """A pod in the test's namespace that runs Python scripts."""
    return ClientPod(node, namespace, client_image)


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

"""The five minutes of docs/kubernetes/tour.md, as they are written there: what its blocks say is what runs."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from harness import programs
from harness.api import path
from harness.helm import Helm
from harness.installation import CHARTS, HELM_SECONDS
from harness.kubectl import to_yaml
from harness.ports import free_port

PAGE = programs.REPOSITORY / "docs/kubernetes/tour.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
# As docs/kubernetes/install.md installs it.
HOME, TENANT = "tollgate", "demo"
IMAGE = "registry.example.com/tollgate:0.1.0"
PORT = "4000"
SECONDS = 150
MARK = "== block "


@pytest.fixture
def installed(own_node, gateway_image):
    """Tollgate as the page of before leaves it."""
    node = own_node
    node.install_crds()
    helm = Helm(node)
    repository, tag = gateway_image.rsplit(":", 1)
    values = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "gateway": {"enabled": True, "spec": {"allowedNamespaces": {"from": "All"}}},
    }
    helm.run(
        "install", "tollgate", CHARTS / "tollgate", "--namespace", HOME, "--create-namespace", "--wait", "--values", "-",
        text=to_yaml(values), seconds=HELM_SECONDS,
    )
    node.kubectl.run("wait", "--for=condition=Ready", "llmgateway/default", "--timeout=90s", "--namespace", HOME, seconds=100)
    yield node
    helm.run("uninstall", "tollgate", "--namespace", HOME, "--wait", seconds=HELM_SECONDS)
    for namespace in (TENANT, HOME):
        if node.api.find(path("v1", "namespaces", None, namespace)):
            node.delete_namespace(namespace)


@pytest.fixture(scope="session")
def openai_packages(run_folder):
    """A folder with the `openai` package, for the Python of the tests."""
    folder = run_folder.path / "openai"
    requirements = programs.SUITE / "requirements-client.txt"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder, "--requirement", requirements]
    subprocess.run(pip, check=True)
    return folder


def blocks(image, port):
    """The shell blocks of the page, for this image and a port that is free here."""
    text = PAGE.read_text()
    for written, here in [(IMAGE, image), (f" {PORT}:80", f" {port}:80"), (f"127.0.0.1:{PORT}", f"127.0.0.1:{port}")]:
        assert written in text, f"{PAGE.name} does not say {written}"
        text = text.replace(written, here)
    return BLOCK.findall(text)


def programs_folder(folder, node):
    """What the page calls: kubectl, tollgate and Python, by their names."""
    folder.mkdir()
    (folder / "kubectl").symlink_to(node.kubectl.program)
    (folder / "tollgate").symlink_to(programs.gateway())
    (folder / "python3").symlink_to(sys.executable)
    return folder


@pytest.mark.timeout(SECONDS + 120)
def test_the_tour_goes_as_it_is_written(installed, gateway_image, openai_packages, tmp_path):
    node = installed
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    port = free_port()
    parts = blocks(gateway_image, port)
    script = tmp_path / "tour.sh"
    # What runs in the background at the end is kubectl's port-forward.
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p)' EXIT"]
    for number, part in enumerate(parts):
        lines += [f"echo '{MARK}{number}'", part]
    script.write_text("\n".join(lines))
    environment = {
        "PATH": f"{programs_folder(tmp_path / 'bin', node)}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(node.kubeconfig),
        "KUBECACHEDIR": str(node.cache),
        "PYTHONPATH": str(openai_packages),
    }
    done = subprocess.run(["bash", script], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
    print(done.stdout)
    assert done.returncode == 0, f"it ended with {done.returncode}: see above"
    said = [text.split("\n", 1)[1] for text in done.stdout.split(MARK)[1:]]
    assert len(said) == len(parts)
    by_heading = dict(zip(re.findall(r"^## (.*)$", PAGE.read_text(), re.M), said))
    # A model and a key that work, an answer, a refusal, a key that is refused for a while, another key, reasons.
    listed = by_heading["A model and a key"]
    assert re.search(r"modeldeployment\S*/gpt-4o +True", listed) and re.search(r"virtualkey\S*/first +True", listed), listed
    refused = by_heading["A budget that is refused"]
    assert "429 Too Many Requests" in refused and "x-tollgate-error: budget_exhausted" in refused, refused
    assert re.search(r"^first +False .*Disabled *$", by_heading["A change"], re.M), by_heading["A change"]
    assert re.search(r"^sk-\S+$", by_heading["Another key"], re.M), by_heading["Another key"]
    assert "gpt-4o" in by_heading["Why, and why not"], by_heading["Why, and why not"]

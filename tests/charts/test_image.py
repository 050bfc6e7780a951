"""The image, packed as deploy/image/build does it. Whether what is in it runs is shown where containers run."""

import json
import os
import tarfile

import pytest
import yaml

import programs
from programs import ROOT, run

NOBODY = 65532


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The folder of an unpacked docker-archive."""
    if os.getuid() != 0:
        pytest.skip("buildah needs root to pack an image")
    folder = tmp_path_factory.mktemp("image")
    # Any binary will do: nothing of it is run.
    environment = {**os.environ, "TOLLGATE_STATIC_BIN": str(programs.tollgate().resolve())}
    run(ROOT / "deploy/image/build", folder / "image.tar", "tollgate:test", env=environment)
    with tarfile.open(folder / "image.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_the_image_runs_as_nobody(image):
    [manifest] = json.loads((image / "manifest.json").read_text())
    assert "docker.io/library/tollgate:test" in manifest["RepoTags"]
    config = json.loads((image / manifest["Config"]).read_text())["config"]
    assert config["User"] == f"{NOBODY}:{NOBODY}"
    assert config["Entrypoint"] == ["/tollgate"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == yaml.safe_load((programs.CHART / "Chart.yaml").read_text())["appVersion"]


def test_the_image_holds_the_binary_and_nothing_to_run_beside_it(image):
    [manifest] = json.loads((image / "manifest.json").read_text())
    files = {}
    for layer in manifest["Layers"]:
        with tarfile.open(image / layer) as archive:
            files.update({member.name: member for member in archive})
    assert {name for name, member in files.items() if member.isfile()} == {
        "tollgate",
        "etc/passwd",
        "etc/group",
        "etc/ssl/certs/ca-certificates.crt",
    }
    assert [name for name, member in files.items() if member.isfile() and member.mode & 0o111] == ["tollgate"]
    # What runs may write its data and nothing else.
    assert [name for name, member in files.items() if member.uid != 0 or member.mode & 0o022] == ["var/lib/tollgate"]
    assert files["var/lib/tollgate"].uid == NOBODY

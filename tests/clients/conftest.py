"""Fixtures: the mock provider, a gateway in front of it, llama.cpp, and the comparison of invoice and ledger."""

import pathlib
import subprocess
import sys

import pytest

from harness import configuration, money as books, process
from harness.mock import Mock

LLAMA = pathlib.Path(__file__).resolve().parents[1] / "llama" / "server.py"


class Gateway:
    """A running gateway."""

    def __init__(self, child, url, data):
        self.process = child
        self.url = url
        self.openai_url = f"{url}/v1"
        self.data = data

    def is_healthy(self):
        process.wait_until_ready(self.process, self.url)
        return True


@pytest.fixture(scope="session")
def mock_process(tmp_path_factory):
    child, url = process.start_mock(tmp_path_factory.mktemp("mock") / "log")
    yield Mock(url)
    child.stop()


@pytest.fixture
def mock(mock_process):
    """The mock provider, without what an earlier test scripted."""
    mock_process.forget_scripts()
    return mock_process


@pytest.fixture(scope="session")
def gateway(mock_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "config"
    config.mkdir()
    configuration.write_mock_configuration(config, mock_process.url)
    # Slow senders are told after a second instead of the usual time.
    child, url = process.start_gateway(config, folder / "data", folder / "log")
    yield Gateway(child, url, folder / "data")
    assert child.is_running(), f"the gateway ended during the tests\n{child.story()}"
    assert child.stop() == 0, child.story()
    assert "panicked" not in child.log.read_text(errors="replace"), child.story()


@pytest.fixture(scope="module")
def money(gateway, mock_process):
    """At the end of a module: for every attempt the ledger agrees with the provider's invoice."""
    before = books.settled(gateway.data, mock_process)
    billed = len(mock_process.invoice())
    yield
    mock_process.wait(in_flight=0)
    books.compare(gateway.data, before, mock_process.invoice()[billed:])


def start_llama(kind, folder):
    """llama.cpp with the tiny model; ends with its standard input, so also when the tests are killed."""
    child = process.Process([sys.executable, str(LLAMA), kind], folder / "log", stdin=subprocess.PIPE)
    return child, child.wait_for(r"listening (http://127\.0\.0\.1:\d+)").group(1)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """The URL of llama.cpp: chat, messages, streams."""
    child, url = start_llama("chat", tmp_path_factory.mktemp("llama-chat"))
    yield url
    child.stop()


@pytest.fixture(scope="session")
def llama_embedding(tmp_path_factory):
    """The URL of llama.cpp: embeddings."""
    child, url = start_llama("embedding", tmp_path_factory.mktemp("llama-embedding"))
    yield url
    child.stop()

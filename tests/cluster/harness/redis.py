"""A Redis or Valkey server beside the tests."""

import shutil
import subprocess

import pytest

from harness.ports import free_port
from harness.process import Process


class Redis:
    """A real server on a loopback port."""

    def __init__(self, folder):
        self.port = free_port()
        server = shutil.which("redis-server") or shutil.which("valkey-server")
        self.cli = shutil.which("redis-cli") or shutil.which("valkey-cli")
        if not server or not self.cli:
            pytest.skip("neither redis-server nor valkey-server is installed")
        self.process = Process("redis", [server, "--bind", "127.0.0.1", "--port", self.port, "--save", ""], folder)
        self.process.wait_until(lambda: self.command("PING") == "PONG")

    def command(self, *words):
        done = subprocess.run([self.cli, "-p", str(self.port), *map(str, words)], capture_output=True, text=True)
        return done.stdout.strip()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

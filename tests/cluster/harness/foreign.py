"""A cluster that was there before: the one that KUBECONFIG names."""

import os
import re
import subprocess

import urllib3

from harness import programs
from harness.api import Api
from harness.cluster import Cluster
from harness.kubectl import Kubectl


def kubeconfig():
    """The value of KUBECONFIG, if it is set."""
    return os.environ.get("KUBECONFIG") or None


class Foreign(Cluster):
    """Reached through `kubectl proxy`, which knows every way to authenticate."""

    def __init__(self, folder):
        cache = folder / "kubectl-cache"
        command, environment = Kubectl(programs.client("kubectl"), kubeconfig(), cache).command("proxy", "--port=0")
        self._proxy = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        said = self._proxy.stdout.readline()
        found = re.search(r"127\.0\.0\.1:\d+", said)
        assert found, f"kubectl proxy does not say where it listens: {said!r}"
        super().__init__(kubeconfig(), Api(f"http://{found.group()}", urllib3.PoolManager()), cache)

    def stop(self):
        self._proxy.kill()
        self._proxy.wait()

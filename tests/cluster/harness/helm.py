"""helm as a user calls it, version 4 (`helm`) or 3 (`helm3`)."""

import os
import subprocess

from harness import programs

COMMAND_SECONDS = 120


class HelmError(Exception):
    """helm said no. Its text is what it wrote to standard error."""


class Helm:
    """helm for one cluster. What it keeps is in a folder of the run, not in the user's."""

    def __init__(self, cluster, program="helm"):
        self._program = programs.client(program)
        home = cluster.cache.parent / program
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(cluster.kubeconfig),
            "HELM_CACHE_HOME": str(home / "cache"),
            "HELM_CONFIG_HOME": str(home / "config"),
            "HELM_DATA_HOME": str(home / "data"),
        }

    def run(self, *arguments, text=None, seconds=COMMAND_SECONDS):
        """What it prints. `text` is its standard input, for `--values -`."""
        command = [str(self._program), *map(str, arguments)]
        done = subprocess.run(command, input=text or "", env=self._environment, capture_output=True, text=True, timeout=seconds)
        if done.returncode != 0:
            raise HelmError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

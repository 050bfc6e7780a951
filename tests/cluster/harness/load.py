"""Load that runs while a test does something else: `inside/load.py`, in a pod or beside the tests."""

import json
import subprocess
import sys

from harness import programs

SCRIPT = programs.SUITE / "inside/load.py"
# Calls under way are finished, streams too.
END_SECONDS = 90


class Load:
    """Runs from `with` to its end; then `result` says what happened. Begun when every unary worker was answered once."""

    def __init__(self, command, settings, environment=None):
        self._command = [*command, SCRIPT.read_text(), json.dumps(settings)]
        self._environment = environment
        self.result = None

    @staticmethod
    def here(settings):
        """Beside the tests: goes on while the API server is away."""
        return Load([sys.executable, "-c"], settings)

    @staticmethod
    def in_pod(cluster, namespace, pod, settings):
        """In a client pod, through `kubectl exec`."""
        command, environment = cluster.kubectl.command("exec", "--stdin", "--namespace", namespace, pod, "--", "python3", "-c")
        return Load(command, settings, environment)

    def __enter__(self):
        self._child = subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        line = self._child.stdout.readline()
        assert line == "begun\n", f"the load did not begin: {line}{self._child.communicate()[1]}"
        return self

    def __exit__(self, kind, value, traceback):
        try:
            said, problems = self._child.communicate(timeout=END_SECONDS)
        finally:
            self._child.kill()
        if kind is None:
            assert self._child.returncode == 0, f"the load ended with {self._child.returncode}: {problems}"
        lines = said.splitlines()
        if lines:
            self.result = json.loads(lines[-1])
            print("load:", {name: len(value) if isinstance(value, list) else value for name, value in self.result.items()})

    def is_whole(self):
        """Fails where a call failed or a stream was cut."""
        assert not self.result["failed"] and not self.result["cut"], self.result
        assert self.result["unary"] > 0 and self.result["streams"] > 0, self.result

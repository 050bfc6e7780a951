"""Starts programs that print where they listen, and ends them by their process id."""

import os
import pathlib
import queue
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

START_SECONDS = 60
STOP_SECONDS = 30


class Process:
    """A program that runs in the background. Its standard error goes to `log`."""

    def __init__(self, arguments, log, environment=None, stdin=None):
        self.log = pathlib.Path(log)
        self.lines = queue.Queue()
        self.output = []
        # Settings of whoever runs the tests must not reach what is tested.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TOLLGATE_", "LITELLM_", "OPENAI_", "ANTHROPIC_"))}
        with open(self.log, "ab") as errors:
            self.child = subprocess.Popen(
                arguments,
                stdin=stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**inherited, **(environment or {})},
                text=True,
            )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            self.output.append(line)
            self.lines.put(line)
        self.lines.put(None)

    def wait_for(self, pattern):
        """The first match of `pattern` in a line of standard output."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {pattern} within {START_SECONDS} s\n{self.story()}") from None
            if line is None:
                raise AssertionError(f"ended with {self.child.wait()} before it said {pattern}\n{self.story()}")
            found = re.search(pattern, line)
            if found:
                return found

    def story(self):
        """What it said, for the message of a failing test."""
        return "".join(self.output) + self.log.read_text(errors="replace")[-4000:]

    def is_running(self):
        return self.child.poll() is None

    def stop(self):
        """Asks it to stop and waits; kills it if it does not. Its exit status."""
        if self.is_running():
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.child.kill()
        return self.child.wait()

    def kill(self):
        """Ends it without any warning."""
        self.child.kill()
        return self.child.wait()


def binary():
    """The `tollgate` under test."""
    built = pathlib.Path(__file__).resolve().parents[3] / "target/debug/tollgate"
    path = pathlib.Path(os.environ.get("TOLLGATE_BIN", built))
    assert path.exists(), f"{path} is not built: run tests/run clients"
    return str(path)


def start_mock(log):
    """`tollgate mock` on a free port: the process and its URL."""
    process = Process([binary(), "mock", "--port", "0"], log)
    return process, process.wait_for(r"http://127\.0\.0\.1:\d+").group()


def start_gateway(folder, data, log, arguments=()):
    """`tollgate serve` on a free port, once it is ready: the process and its URL."""
    command = [binary(), "serve", "--config", str(folder), "--data", str(data), "--host", "127.0.0.1", "--port", "0", "--drain", "5"]
    process = Process([*command, *arguments], log)
    url = process.wait_for(r"http://127\.0\.0\.1:\d+").group()
    wait_until_ready(process, url)
    return process, url


def wait_until_ready(process, url):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health/readiness", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            pass
        assert process.is_running(), process.story()
        time.sleep(0.02)
    raise AssertionError(f"not ready within {START_SECONDS} s\n{process.story()}")

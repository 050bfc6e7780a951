"""Starts programs in the background, waits until they are ready, and ends them by their process id."""

import os
import pathlib
import signal
import subprocess
import time

START_SECONDS = 60
STOP_SECONDS = 20

# What a test is started with must not reach what is tested.
FOREIGN = ("KUBE", "TOLLGATE_", "HELM_")


class Process:
    """A program that writes to a log file. The kernel kills it when the thread that started it ends, so also when the
    tests are killed: start it from the main thread."""

    def __init__(self, name, arguments, folder, environment=None):
        self.name = name
        self.arguments = [str(argument) for argument in arguments]
        self.log = pathlib.Path(folder) / f"{name}.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **(environment or {})},
                # A ctrl-c in the terminal is for the tests, which then stop everything in order.
                start_new_session=True,
            )

    def wait_until(self, ready, seconds=START_SECONDS):
        """Asks `ready()` until it is true. Fails when the program ends before, or takes longer."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.is_running(), f"{self.name} ended with {self.child.wait()} before it was ready\n{self.story()}"
            assert time.monotonic() < deadline, f"{self.name} is not ready after {seconds} s\n{self.story()}"
            time.sleep(0.02)

    def story(self, lines=60):
        """The end of its log, for the message of a failing test."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def is_running(self):
        return self.child.poll() is None

    def pause(self):
        """Stops it in its tracks: connections stay open and nothing answers. Returns when the last thread stands."""
        self.child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED)

    def resume(self):
        self.child.send_signal(signal.SIGCONT)

    def stop(self):
        """Asks it to stop and waits; kills it if it does not. Its exit status."""
        if self.is_running():
            self.resume()
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

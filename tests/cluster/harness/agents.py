"""Agents beside the tests that spend a key's money at one proxy, until each is told that it is spent."""

import http.client
import json
import threading
import time

# The longest that a call may be without an answer, and that an agent goes on.
CALL_SECONDS = 30
SECONDS = 120
# After an answer that there is no allocator.
PAUSE_SECONDS = 0.05


class Agents:
    """Begun when they are made. `survives`: a proxy that goes away is a fault, not the end of its agents."""

    def __init__(self, host, port, key, model, number, survives=True):
        self._where = (host, port)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        messages = [{"role": "user", "content": "spend"}]
        self._body = json.dumps({"model": model, "max_tokens": 100, "messages": messages})
        self._survives = survives
        self._lock = threading.Lock()
        self.answered = 0
        # What was said to be spent, of each that was told so: nano-dollars.
        self.exhausted = []
        # Calls that were refused because there was no allocator, and with which status.
        self.unavailable = 0
        self.statuses_unavailable = set()
        # What should not happen.
        self.others = []
        self._ends_at = time.monotonic() + SECONDS
        self._threads = [threading.Thread(target=self._spend, daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Each ends after the call that it makes."""
        self._ends_at = 0
        self.join()

    def join(self):
        for thread in self._threads:
            thread.join()

    def _spend(self):
        connection = http.client.HTTPConnection(*self._where, timeout=CALL_SECONDS)
        while time.monotonic() < self._ends_at:
            try:
                connection.request("POST", "/v1/chat/completions", self._body, self._headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if self._survives:
                    self._note("others", f"{type(error).__name__}: {error}")
                return
            reason = answer.headers.get("x-tollgate-error")
            if answer.status == 200:
                with self._lock:
                    self.answered += 1
            elif reason == "budget_unavailable":
                with self._lock:
                    self.unavailable += 1
                    self.statuses_unavailable.add(answer.status)
                time.sleep(PAUSE_SECONDS)
            elif reason == "budget_exhausted":
                return self._note("exhausted", _spent(json.loads(text)["error"]["message"]))
            else:
                return self._note("others", f"{answer.status} {text}")
        if self._ends_at:
            self._note("others", "it is neither served nor refused")

    def _note(self, where, what):
        with self._lock:
            getattr(self, where).append(what)


def _spent(message):
    """Nano-dollars that a refusal names."""
    whole, _, decimals = message.split("Current cost: ")[1].split(",")[0].removeprefix("$").partition(".")
    return int(whole) * 10**9 + int(decimals.ljust(9, "0"))

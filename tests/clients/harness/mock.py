"""The mock provider's control, as its documentation has it: scripts, what it saw, and its invoice."""

import json
import urllib.request

WAIT_SECONDS = 30


class Mock:
    """A running mock provider."""

    def __init__(self, url):
        self.url = url

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_mock/{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            return json.load(answer)

    def script(self, model, *steps):
        """What the next requests for `model`, the upstream's own name, get."""
        self._call("POST", "script", {"model": model, "steps": list(steps)})

    def reply(self, model, **reply):
        """One scripted answer."""
        self.script(model, {"reply": reply})

    def fail(self, model, status, repeat=1, **failure):
        """Scripted HTTP errors."""
        self.script(model, {"error": {"status": status, **failure}, "repeat": repeat})

    def forget_scripts(self):
        self._call("DELETE", "script")

    def open_gate(self, name):
        self._call("POST", f"gate/{name}")

    def requests(self):
        return self._call("GET", "requests")["requests"]

    def last_request(self):
        """The newest request: method, path, query, headers (a dict), body (decoded)."""
        last = self.requests()[-1]
        return {**last, "headers": dict(last["headers"]), "body": json.loads(last["body"])}

    def invoice(self):
        return self._call("GET", "invoice")["rows"]

    def status(self):
        return self._call("GET", "status")

    def wait(self, **counts):
        """Returns when each count (requests, rows, in_flight) is reached."""
        query = "&".join(f"{name}={count}" for name, count in counts.items())
        return self._call("GET", f"wait?{query}")

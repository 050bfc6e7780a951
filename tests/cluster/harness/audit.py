"""What the API server was asked, by whom, and whether it allowed it: for tests of RBAC."""

import dataclasses
import json
import secrets
import time

# Every request, once its answer begins (a watch) or was given, without bodies: Secrets must not land in a file.
POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
"""
WRITTEN_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Call:
    """One request. `group` is "" for the core; `user` is the impersonated one, if any."""

    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    allowed: bool
    code: int
    agent: str


class Audit:
    """Reads the API server's audit log."""

    def __init__(self, log, api):
        self._log = log
        self._api = api

    def position(self):
        """A place in the log: give it to `calls` to read from here on."""
        return self._log.stat().st_size

    def calls(self, since=0, user=None):
        """The calls that were answered since, of one user or of all. A watch counts when its answer has begun."""
        marker = f"marker-{secrets.token_hex(8)}"
        self._api.call("GET", "/version", headers={"User-Agent": marker})
        deadline = time.monotonic() + WRITTEN_SECONDS
        while True:
            with open(self._log, "rb") as log:
                log.seek(since)
                text = log.read()
            if marker.encode() in text:
                break
            assert time.monotonic() < deadline, f"the audit log does not hold {marker}"
            time.sleep(0.02)
        lines = text[: text.rindex(b"\n")].split(b"\n")
        events = [json.loads(line) for line in lines if b'"objectRef"' in line]
        # A watch has an event for its begin and one for its end; the later one knows more.
        calls = [_call(event) for event in {event["auditID"]: event for event in events}.values()]
        return [call for call in calls if user is None or call.user == user]


def _call(event):
    what = event.get("objectRef", {})
    return Call(
        user=event.get("impersonatedUser", event["user"])["username"],
        verb=event["verb"],
        group=what.get("apiGroup", ""),
        resource=what.get("resource", ""),
        subresource=what.get("subresource", ""),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        allowed=event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow",
        code=event.get("responseStatus", {}).get("code", 0),
        agent=event.get("userAgent", ""),
    )

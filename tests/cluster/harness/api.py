"""The Kubernetes API over HTTP, for what kubectl hides or is too slow for: status codes, field managers, watches."""

import json
import time
import urllib.parse

import urllib3

WAIT_SECONDS = 30
CALL_SECONDS = 30
# An answer of 429 says when to ask again, and every client does: resources that were defined are so for a moment after the
# API server started. All else is for who asked.
RETRIES = urllib3.Retry(status=10, status_forcelist=[429], allowed_methods=None, connect=False, read=False, other=False, redirect=False)


class ApiError(Exception):
    """An answer that is not 2xx: its `code`, and the `reason` and message of its Status."""

    def __init__(self, code, status):
        self.code = code
        self.reason = status.get("reason")
        super().__init__(f"{code} {self.reason}: {status.get('message')}")


def path(version, plural, namespace=None, name=None, subresource=None):
    """`path("v1", "pods", "default", "a", "log")`, `path("apps/v1", "deployments")`."""
    parts = ["apis" if "/" in version else "api", version]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (plural, name, subresource) if part]
    return "/" + "/".join(parts)


class Api:
    """Calls of one user. `pool` is a urllib3 pool manager that holds the credentials."""

    def __init__(self, url, pool, headers=None):
        self.url = url
        self._pool = pool
        self._headers = headers or urllib3.HTTPHeaderDict()

    def as_user(self, user, *groups):
        """The administrator, impersonating."""
        headers = urllib3.HTTPHeaderDict({"Impersonate-User": user})
        for group in groups:
            headers.add("Impersonate-Group", group)
        return Api(self.url, self._pool, headers)

    def call(self, method, where, body=None, content_type="application/json", seconds=CALL_SECONDS, headers=None, **query):
        """The decoded answer; text when it is not JSON."""
        answer = self._pool.request(
            method,
            self._address(where, query),
            body=None if body is None else json.dumps(body),
            headers=self._headers | {"Content-Type": content_type, **(headers or {})},
            timeout=seconds,
            retries=RETRIES,
        )
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        decoded = answer.json() if is_json else answer.data.decode()
        if not 200 <= answer.status < 300:
            raise ApiError(answer.status, decoded if is_json else {"message": decoded})
        return decoded

    def get(self, where, **query):
        return self.call("GET", where, **query)

    def create(self, where, body, **query):
        """Unknown fields are refused: a test that misspells one should hear of it."""
        return self.call("POST", where, body, **{"fieldValidation": "Strict", **query})

    def replace(self, where, body, **query):
        return self.call("PUT", where, body, **{"fieldValidation": "Strict", **query})

    def merge(self, where, body, **query):
        """A merge patch: `None` removes a field."""
        return self.call("PATCH", where, body, "application/merge-patch+json", **{"fieldValidation": "Strict", **query})

    def apply(self, where, body, manager, force=False, **query):
        """Server-side apply as the field manager `manager`."""
        query = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict", **query}
        return self.call("PATCH", where, body, "application/apply-patch+yaml", **query)

    def delete(self, where, policy="Background"):
        return self.call("DELETE", where, {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy})

    def find(self, where):
        """The object, or `None`."""
        try:
            return self.get(where)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def watch(self, where, resource_version, seconds=WAIT_SECONDS, **query):
        """Events (type, object) after `resource_version`; ends when the time is over."""
        address = self._address(where, {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": max(1, int(seconds)), **query})
        # The server ends a watch at its time; the margin is for a server that does not answer at all.
        answer = self._pool.request("GET", address, headers=self._headers, preload_content=False, timeout=seconds + 5, retries=False)
        try:
            if answer.status != 200:
                raise ApiError(answer.status, json.loads(answer.read()))
            rest = b""
            for piece in answer.stream(65536, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code"), event["object"])
                    yield event["type"], event["object"]
        finally:
            answer.close()

    def wait_until(self, where, holds, seconds=WAIT_SECONDS):
        """The object at `where`, or `None` if it is not there, as soon as `holds(object)`. Watches; misses nothing."""
        collection, name = where.rsplit("/", 1)
        selector = f"metadata.name={name}"
        deadline = time.monotonic() + seconds
        while True:
            listed = self.get(collection, fieldSelector=selector)
            last = next(iter(listed["items"]), None)
            if holds(last):
                return last
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"{where} did not become so within {seconds} s; it is\n{json.dumps(last, indent=2)}")
            for kind, last in self.watch(collection, listed["metadata"]["resourceVersion"], seconds=left, fieldSelector=selector):
                last = None if kind == "DELETED" else last
                if holds(last):
                    return last

    def _address(self, where, query):
        return self.url + where + ("?" + urllib.parse.urlencode(query) if query else "")

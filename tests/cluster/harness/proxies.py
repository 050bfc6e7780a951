"""Proxies for a plane without nodes: the pods that controllers make of a Deployment become ready, and behind their
addresses answers what the operator asks proxies."""

import base64
import http.server
import itertools
import json
import secrets
import threading
import time

from harness.api import ApiError, path

STATUS_PORT = 4001


class Proxies:
    """Those of the gateway `gateway` in `namespace`, until `stop`. They run at once what is published."""

    def __init__(self, api, namespace, gateway):
        self.api = api
        self.namespace = namespace
        self.gateway = gateway
        # Loopback addresses of this run's own: other runs have proxies too.
        self._network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}"
        self._servers = {}
        self._addresses = itertools.count(1)
        self._stop = threading.Event()
        # What probes find, and the deployments that were probed.
        self.verdict = {"ok": True, "reason": "Reachable", "message": "it answers"}
        self.probed = []
        self.used = {"cursor": 1, "keys": [], "deployments": []}
        # What one of them has spent of budgets for ever, nano-USD by id.
        self.spent = {}
        # The least that calls had to reserve which it refused since, by id.
        self.refused = {}
        # Sums of keys, teams and deployments that it tells; `None`: it is of a version that tells none.
        self.tally = None
        self._kubelet = threading.Thread(target=self._run, daemon=True)
        self._kubelet.start()

    def stop(self):
        self._stop.set()
        self._kubelet.join()
        for server in self._servers.values():
            server.shutdown()

    def is_first(self, server):
        """Whether it is that of the pod that is there the longest."""
        return server is next(iter(list(self._servers.values())), None)

    def generation(self):
        manifest = self.api.find(path("v1", "configmaps", self.namespace, f"tollgate-{self.gateway}-manifest"))
        return json.loads(manifest["data"]["manifest.json"])["generation"] if manifest else 0

    def token(self):
        secret = self.api.get(path("v1", "secrets", self.namespace, f"tollgate-{self.gateway}-credentials-0"))
        return json.loads(base64.b64decode(secret["data"]["credentials.json"]))["token"]

    def _run(self):
        while not self._stop.wait(0.1):
            pods = self.api.get(path("v1", "pods", self.namespace))["items"]
            for gone in self._servers.keys() - {pod["metadata"]["name"] for pod in pods}:
                self._servers.pop(gone).shutdown()
            for pod in pods:
                name = pod["metadata"]["name"]
                try:
                    if pod["metadata"].get("deletionTimestamp"):
                        options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
                        self.api.call("DELETE", path("v1", "pods", self.namespace, name), options)
                    elif name not in self._servers:
                        self._start(name)
                except ApiError as error:
                    # Somebody deleted it meanwhile.
                    if error.code != 404:
                        raise

    def _start(self, name):
        address = f"{self._network}.{next(self._addresses)}"
        handler = type("Handler", (Handler,), {"proxies": self})
        self._servers[name] = http.server.ThreadingHTTPServer((address, STATUS_PORT), handler)
        threading.Thread(target=self._servers[name].serve_forever, daemon=True).start()
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
        self.api.merge(path("v1", "pods", self.namespace, name, "status"), {"status": status})


class Tally:
    """Sums as a proxy tells them, in batches that it keeps until they are taken."""

    def __init__(self, source="tally"):
        self.source = source
        self.batches = []
        self._open = {}
        self._number = 0
        self._lock = threading.Lock()

    def add(self, of, name, month, requests, tokens, nano_usd):
        with self._lock:
            sums = self._open.setdefault((of, name, month), [0, 0, 0])
            self._open[of, name, month] = [known + more for known, more in zip(sums, (requests, tokens, nano_usd))]

    def is_taken(self):
        with self._lock:
            return not self.batches and not self._open

    def answer(self, ask):
        with self._lock:
            if ask["source"] == self.source:
                self.batches = [batch for batch in self.batches if batch["number"] > ask["taken"]]
            if self._open:
                self._number += 1
                fields = ("of", "name", "month", "requests", "tokens", "nanoUsd")
                sums = [dict(zip(fields, (*thing, *amounts))) for thing, amounts in self._open.items()]
                self.batches.append({"number": self._number, "sums": sums})
                self._open = {}
            return {"source": self.source, "batches": self.batches}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxies = None

    def do_GET(self):
        if self.path == "/snapshot":
            self._answer(200, {"generation": self.proxies.generation(), "version": "0.1.0", "ready": True})
        elif self.path.startswith("/operator/used?") and self._is_operator():
            self._answer(200, self.proxies.used)
        else:
            self._answer(404, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/operator/probe" and self._is_operator():
            self.proxies.probed.append(body["deployment"])
            self._answer(200, self.proxies.verdict)
        elif self.path == "/operator/allowance" and self._is_operator():
            # Proxies keep the question open for a while.
            time.sleep(min(body["waitMs"], 500) / 1000)
            replica = "r.1" if self._is_first() else "idle.1"
            self._answer(200, {"batches": [{"replica": replica, "reports": self._reports()}]})
        elif self.path == "/operator/tally" and self._is_operator() and self.proxies.tally:
            self._answer(200, self.proxies.tally.answer(body) if self._is_first() else {})
        else:
            self._answer(404, {})

    def _is_first(self):
        return self.proxies.is_first(self.server)

    def _reports(self):
        # One of them spends, the others do nothing.
        if self._is_first():
            forever = (1 << 63) - 1
            span = {"kind": "Lifetime", "starts_at": 0, "ends_at": forever, "counts_until": forever, "label": "lifetime"}
            shared = {"unit": "NanoUsd", "span": span, "returned": 0, "held": 0}
            refused = self.proxies.refused
            return [
                {**shared, "budget": budget, "used": used, "wanted": used, "refused": refused.get(budget, 0)}
                for budget, used in self.proxies.spent.items()
            ]
        return []

    def _is_operator(self):
        return self.headers.get("Authorization") == f"Bearer {self.proxies.token()}"

    def _answer(self, code, body):
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Nobody reads it."""

"""`tollgate dataplane` beside the tests, in the place of a pod that no node runs."""

import contextlib
import sqlite3

import urllib3

from harness import programs
from harness.api import path
from harness.process import Process

CLIENT_PORT = 4000
# The operator asks proxies at this port of a pod's address.
STATUS_PORT = 4001


class Proxy:
    """Serves a gateway (`namespace/name`) at `address`, a loopback address of its own. `kubeconfig` is who it is to the API
    server, `program` its binary where that is another one than the one under test."""

    def __init__(self, cluster, name, gateway, kubeconfig, address, program=None):
        self.cluster = cluster
        self.namespace, self.gateway = gateway.split("/")
        self.address = address
        self.url = f"http://{address}:{CLIENT_PORT}"
        self._http = urllib3.PoolManager(retries=False, timeout=5)
        folders = [cluster.folder / f"{name}-{purpose}" for purpose in ("data", "cache")]
        for folder in folders:
            folder.mkdir()
        self._ledger = folders[0] / "ledger/ledger.sqlite"
        self.name = name
        self._arguments = [
            program or programs.gateway(),
            "dataplane",
            f"--kubeconfig={kubeconfig}",
            f"--gateway={gateway}",
            f"--host={address}",
            f"--listen=http={CLIENT_PORT}",
            f"--status-port={STATUS_PORT}",
            f"--data={folders[0]}",
            f"--cache={folders[1]}",
            "--drain-delay=0",
            "--cores=1",
        ]
        self.start()

    def start(self):
        """Also again, after `stop` or `finish`: on the folders that it had."""
        self.process = Process(self.name, self._arguments, self.cluster.folder)
        self.cluster.processes.append(self.process)

    def is_ready(self):
        return self._answers("/health/readiness")

    def generation(self):
        return self._http.request("GET", f"http://{self.address}:{STATUS_PORT}/snapshot").json()["generation"]

    def be_pod(self, address=None):
        """Has one of the gateway's pods that has no address be ready and have this one, or another that leads here. Its name."""
        address = address or self.address
        pods = path("v1", "pods", self.namespace)
        selector = f"tollgate.dev/gateway={self.gateway}"
        listed = self.cluster.api.get(pods, labelSelector=selector)
        is_free = lambda pod: not pod.get("status", {}).get("podIP")
        pod = next(filter(is_free, listed["items"]), None)
        if pod is None:
            version = listed["metadata"]["resourceVersion"]
            seen = (pod for _, pod in self.cluster.api.watch(pods, version, labelSelector=selector))
            pod = next(filter(is_free, seen))
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.cluster.api.merge(f"{pods}/{pod['metadata']['name']}/status", {"status": status})
        return pod["metadata"]["name"]

    def stop(self):
        """Ends it without any warning."""
        self._end(self.process.kill)

    def finish(self):
        """As the kubelet ends a pod: it is asked to, and its ledger is copied to its end. Its exit status."""
        return self._end(self.process.stop)

    def rows(self, model):
        """What its ledger has of a model's attempts, once it has finished: (outcome, cost, hold) in nano-dollars."""
        with contextlib.closing(sqlite3.connect(f"file:{self._ledger}?mode=ro", uri=True)) as ledger:
            select = "SELECT outcome, nano_usd, held_nano_usd FROM spend WHERE model = ?"
            return ledger.execute(select, [model]).fetchall()

    def _end(self, end):
        if self.process in self.cluster.processes:
            self.cluster.processes.remove(self.process)
            return end()
        return None

    def _answers(self, where):
        try:
            return self._http.request("GET", f"http://{self.address}:{STATUS_PORT}{where}").status == 200
        except urllib3.exceptions.HTTPError:
            return False

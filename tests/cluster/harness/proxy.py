"""`tollgate dataplane` beside the tests, in the place of a pod that no node runs."""

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
        """Also again, after `stop` or `end`: on the folders that it had."""
        self.process = Process(self.name, self._arguments, self.cluster.folder)
        self.cluster.processes.append(self.process)

    def is_ready(self):
        return self._answers("/health/readiness")

    def generation(self):
        return self._http.request("GET", f"http://{self.address}:{STATUS_PORT}/snapshot").json()["generation"]

    def be_pod(self):
        """Has one of the gateway's pods that has no address be ready and have this one. Its name."""
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
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.cluster.api.merge(f"{pods}/{pod['metadata']['name']}/status", {"status": status})
        return pod["metadata"]["name"]

    def stop(self):
        if self.process in self.cluster.processes:
            self.cluster.processes.remove(self.process)
            self.process.kill()

    def end(self):
        """As the kubelet ends a pod: it is asked to. Its exit status."""
        self.cluster.processes.remove(self.process)
        return self.process.stop()

    def _answers(self, where):
        try:
            return self._http.request("GET", f"http://{self.address}:{STATUS_PORT}{where}").status == 200
        except urllib3.exceptions.HTTPError:
            return False

"""`tollgate operator` beside the tests, for namespaces of one test."""

import urllib3

from harness import programs
from harness.api import path
from harness.ports import free_port
from harness.process import Process

LEASES = "coordination.k8s.io/v1"
LEASE = "tollgate-operator"


class Operator:
    """Looks at `namespaces` (`["all"]`: everywhere) and keeps its Lease in `home`, else in the first of them. `kubeconfig`
    is who it is to the API server, `program` its binary where that is another one than the one under test."""

    def __init__(self, cluster, name, namespaces, kubeconfig, home=None, program=None):
        self.cluster = cluster
        self.name = name
        self.home = home or namespaces[0]
        self.lease = path(LEASES, "leases", self.home, LEASE)
        self.metrics_port, self.health_port = free_port(), free_port()
        # No connection is kept: one from before a pause is over.
        self._http = urllib3.PoolManager(retries=False, timeout=5, headers={"Connection": "close"})
        environment = {"POD_NAMESPACE": self.home, "POD_NAME": name, "TOLLGATE_LOG": "info,tollgate_operator=debug"}
        arguments = [
            program or programs.gateway(),
            "operator",
            f"--kubeconfig={kubeconfig}",
            f"--namespaces={','.join(namespaces)}",
            f"--metrics-port={self.metrics_port}",
            f"--health-port={self.health_port}",
        ]
        self.process = Process(name, arguments, cluster.folder, environment)
        cluster.processes.append(self.process)
        self.process.wait_until(self.is_ready)

    def is_ready(self):
        try:
            return self._http.request("GET", f"http://127.0.0.1:{self.health_port}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def answers(self, seconds):
        """Whether it says that it lives, within so many seconds."""
        return self._http.request("GET", f"http://127.0.0.1:{self.health_port}/livez", timeout=seconds).status == 200

    def metric(self, name, **labels):
        """The value of a series; 0 when there is none yet. `name` is without the prefix."""
        text = self._http.request("GET", f"http://127.0.0.1:{self.metrics_port}/metrics").data.decode()
        values = [line for line in text.splitlines() if line.startswith(f"tollgate_operator_{name}")]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        values = [line for line in values if all(label in line for label in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in values)

    def leads(self):
        return self.metric("leading") == 1

    def wait_until_it_leads(self, seconds=30):
        self.process.wait_until(self.leads, seconds)

    def renewals(self, number):
        """Waits until the Lease was renewed so often: time passes for the operator as well."""
        for _ in range(number):
            before = self.cluster.api.get(self.lease)["spec"]["renewTime"]
            self.cluster.api.wait_until(self.lease, lambda there: there["spec"]["renewTime"] != before)

    def stop(self):
        return self._end(self.process.stop)

    def kill(self):
        return self._end(self.process.kill)

    def _end(self, end):
        if self.process in self.cluster.processes:
            self.cluster.processes.remove(self.process)
            return end()
        return None

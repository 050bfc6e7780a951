"""The mock provider in the cluster: the gateway's image runs it, a Service leads to it. It keeps its own invoice."""

PORT = 4010


class Provider:
    """Started when it is made; goes with its namespace."""

    backend = {"name": "mock", "port": PORT}

    def __init__(self, cluster, namespace, image):
        self._cluster = cluster
        self._namespace = namespace
        labels = {"app": "mock"}
        container = {
            "name": "mock",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["mock", "--host", "0.0.0.0", "--port", str(PORT)],
            "readinessProbe": {"httpGet": {"path": "/_mock/status", "port": PORT}, "periodSeconds": 1},
        }
        pod = {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "enableServiceLinks": False}
        cluster.kubectl.apply([
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mock", "labels": labels}, "spec": pod},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mock"}, "spec": {"selector": labels, "ports": [{"port": PORT}]}},
        ], namespace=namespace)
        cluster.kubectl.wait("pod/mock", "condition=Ready", namespace=namespace)

    def control(self, method, what, body=None):
        """`tollgate_mock::control`, as JSON. Through the API server: works on every cluster."""
        where = f"/api/v1/namespaces/{self._namespace}/pods/mock:{PORT}/proxy/_mock/{what}"
        return self._cluster.api.call(method, where, body)

    def script(self, model, *steps):
        """What the next requests for a model are answered."""
        self.control("POST", "script", {"model": model, "steps": list(steps)})

    def forget_invoice(self):
        self.control("DELETE", "invoice")

    def invoice(self, model=None):
        """Rows that cost something, of one model or of all. Rows of probes are not calls."""
        rows = self.control("GET", "invoice")["rows"]
        return [row for row in rows if row["billed"] and (model is None or row["model"] == model)]


def cost(rows, input_nano, output_nano):
    """What rows without cached tokens cost, nano-dollars, at prices for one token."""
    assert not any(row["cache_read"] or row["cache_write_5m"] or row["cache_write_1h"] for row in rows), rows
    return sum(row["input_tokens"] * input_nano + row["output_tokens"] * output_nano for row in rows)

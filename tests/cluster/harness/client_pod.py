"""A pod that holds Python and the unmodified `openai` package: what an application in the cluster sees."""


class ClientPod:
    """Started when it is made; goes with its namespace."""

    def __init__(self, cluster, namespace, image, name="client"):
        self._kubectl = cluster.kubectl
        self._namespace = namespace
        self._name = name
        self._kubectl.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {
                    "containers": [{
                        "name": "client",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["-c", "import signal; signal.pause()"],
                    }],
                    # The first process of a container hears no request to stop unless it asks for it.
                    "terminationGracePeriodSeconds": 0,
                    "automountServiceAccountToken": False,
                },
            },
            namespace=namespace,
        )
        self._kubectl.wait(f"pod/{name}", "condition=Ready", namespace=namespace)

    def run(self, script, *arguments, seconds=60):
        """What a Python script prints that runs in the pod. Raises `KubectlError` with its traceback if it fails."""
        return self._kubectl.execute(self._name, "python3", "-", *arguments, namespace=self._namespace, text=script, seconds=seconds)

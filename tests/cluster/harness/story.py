"""What a failed test's namespace looks like, for its report."""

import subprocess

import urllib3

from harness.api import ApiError
from harness.kubectl import KubectlError

LINES = 30


def of_namespace(cluster, namespace):
    """Pods, events, and the end of each pod's log."""
    kubectl = cluster.kubectl
    try:
        pods = [pod["metadata"]["name"] for pod in cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]]
        parts = [
            kubectl.run("get", "pods", "--output=wide", "--namespace", namespace),
            kubectl.run("get", "events", "--sort-by=.lastTimestamp", "--namespace", namespace),
        ]
        for pod in pods:
            try:
                log = kubectl.logs(pod, "--all-containers", "--prefix", f"--tail={LINES}", namespace=namespace)
            except KubectlError as error:
                log = str(error)
            parts.append(f"log of {pod}:\n{log}")
        return "\n".join(parts)
    except (ApiError, KubectlError, urllib3.exceptions.HTTPError, subprocess.TimeoutExpired) as error:
        return f"the API server does not tell: {error}"

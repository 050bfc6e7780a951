"""The node is a real one: pods run the gateway's image, a Service leads to them, DNS finds it, and an application's own
client library is served."""

import json
import urllib.request

import pytest

from harness.kubectl import KubectlError

MASTER_KEY = "sk-master-for-cluster-tests-0123456789"
MESSAGE = [{"role": "user", "content": "say something"}]

CALL = """
import json, sys
import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
messages = json.loads(sys.argv[3])
answer = client.chat.completions.create(model="gpt-4o", messages=messages)
pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(model="gpt-4o", messages=messages, stream=True) if chunk.choices]
print(json.dumps({"answer": answer.choices[0].message.content, "stream": "".join(pieces), "tokens": answer.usage.total_tokens}))
"""


# A rollout is over before kube-proxy has heard of the pod.
WAIT = """
import socket, sys, time
deadline = time.monotonic() + 20
while True:
    try:
        socket.create_connection((sys.argv[1], 4000), timeout=1).close()
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
"""


def gateway_objects(image):
    """The built-in demo as a Deployment and a Service."""
    labels = {"app": "gateway"}
    container = {
        "name": "gateway",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["serve", "--host", "0.0.0.0", "--port", "4000", "--data", "/data", "--cores", "1", "--drain", "1"],
        "env": [{"name": "TOLLGATE_MASTER_KEY", "valueFrom": {"secretKeyRef": {"name": "gateway", "key": "master"}}}],
        "ports": [{"name": "http", "containerPort": 4000}],
        "readinessProbe": {"httpGet": {"path": "/health/readiness", "port": "http"}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "securityContext": {"fsGroup": 65532},
        "automountServiceAccountToken": False,
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    return [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gateway"}, "stringData": {"master": MASTER_KEY}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "gateway"}, "spec": {"selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "gateway"}, "spec": {"selector": labels, "ports": [{"port": 4000, "targetPort": "http"}]}},
    ]


@pytest.fixture
def gateway(node, namespace, gateway_image):
    node.kubectl.apply(gateway_objects(gateway_image), namespace=namespace)
    node.kubectl.run("rollout", "status", "deployment/gateway", "--timeout=60s", "--namespace", namespace)


def test_node_is_ready(node):
    nodes = node.kubectl.get_json("nodes")
    assert all(condition["status"] == "True" for each in nodes for condition in each["status"]["conditions"] if condition["type"] == "Ready")


def test_an_application_is_served_through_a_service_by_its_name(node, namespace, gateway, client):
    client.run(WAIT, "gateway")
    for host in ["gateway", f"gateway.{namespace}.svc.cluster.local"]:
        said = json.loads(client.run(CALL, f"http://{host}:4000", MASTER_KEY, json.dumps(MESSAGE)))
        assert said["answer"] and said["stream"] and said["tokens"] > 0, said
    with pytest.raises(KubectlError, match="AuthenticationError"):
        client.run(CALL, "http://gateway:4000", "sk-of-nobody", json.dumps(MESSAGE))


def test_exec_and_logs_reach_the_container(node, namespace, gateway):
    assert node.kubectl.execute("deployment/gateway", "/tollgate", "--version", namespace=namespace).startswith("tollgate ")
    assert "built-in demo" in node.kubectl.logs("deployment/gateway", namespace=namespace)


def test_a_new_pod_takes_over_from_one_that_was_deleted(node, namespace, gateway, client):
    before = {pod["metadata"]["name"] for pod in node.kubectl.get_json("pods", namespace=namespace, selector="app=gateway")}
    node.kubectl.delete("pod", *before, namespace=namespace)
    node.kubectl.run("rollout", "status", "deployment/gateway", "--timeout=60s", "--namespace", namespace)
    after = {pod["metadata"]["name"] for pod in node.kubectl.get_json("pods", namespace=namespace, selector="app=gateway")}
    assert len(after) == 1 and not before & after
    client.run(WAIT, "gateway")
    assert json.loads(client.run(CALL, "http://gateway:4000", MASTER_KEY, json.dumps(MESSAGE)))["answer"]


def test_a_pod_reaches_the_api_server_with_its_own_account(node, namespace, client_image):
    script = """
import json, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
token = open(folder + "/token").read()
request = urllib.request.Request("https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews", method="POST",
    data=b'{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}',
    headers={"Authorization": "Bearer " + token, "Content-Type": "application/json"})
answer = urllib.request.urlopen(request, context=ssl.create_default_context(cafile=folder + "/ca.crt"), timeout=10)
print(json.load(answer)["status"]["userInfo"]["username"])
"""
    container = {"name": "script", "image": client_image, "imagePullPolicy": "IfNotPresent", "args": ["-c", script]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "script"}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    node.kubectl.apply(pod, namespace=namespace)
    node.kubectl.wait("pod/script", "jsonpath={.status.phase}=Succeeded", namespace=namespace)
    assert node.kubectl.logs("script", namespace=namespace) == f"system:serviceaccount:{namespace}:default\n"


def test_a_service_is_reached_from_where_the_tests_run(own_node, namespace, gateway):
    with urllib.request.urlopen(own_node.url_of(namespace, "gateway", 4000) + "/health/readiness", timeout=10) as answer:
        assert answer.status == 200

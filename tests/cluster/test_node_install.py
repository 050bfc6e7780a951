"""What a user does from installing to uninstalling: helm, two objects, an application with its own client library, and
what kubectl shows of it."""

import json
import time

import pytest

from harness.cluster import condition
from harness.installation import HELM_SECONDS, SPENT_SECONDS
from harness.kubectl import KubectlError
from harness.provider import cost

MESSAGES = [{"role": "user", "content": "say something"}]
# Of a token, by the prices of `Installation.model`: $2.50 and $10 for a million.
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000

CALLS = """
import json, sys
import openai

url, key, model, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
messages = json.loads(sys.argv[5])
texts = []
for _ in range(count):
    # A new client has new connections, so that both proxies are called.
    with openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0) as client:
        answer = client.chat.completions.create(model=model, messages=messages)
        texts.append(answer.choices[0].message.content)
        chunks = list(client.chat.completions.create(model=model, messages=messages, stream=True))
        texts.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))
print(json.dumps(texts))
"""


@pytest.fixture(scope="module")
def served(tollgate):
    """A model, a key with a budget, and a Budget of the namespace."""
    tollgate.apply(
        tollgate.model("gpt-4o"),
        tollgate.key("ci", models=["gpt-4o"], budget={"limit": "25", "period": {"calendar": "Month"}}),
        tollgate.object("Budget", "everybody", {"limit": "100", "period": {"calendar": "Year"}}),
    )
    tollgate.wait_ready("modeldeployment/gpt-4o", "virtualkey/ci", "budget/everybody")
    return tollgate.generated_key("ci")


def test_an_application_is_served_and_what_it_spent_is_shown(tollgate, served, agent):
    tollgate.provider.forget_invoice()
    texts = json.loads(agent.run(CALLS, tollgate.url, served, "gpt-4o", 6, json.dumps(MESSAGES)))
    assert len(texts) == 12 and all(texts), texts
    ended = time.monotonic()

    rows = tollgate.provider.invoice("gpt-4o")
    invoice = cost(rows, INPUT_NANO, OUTPUT_NANO)
    assert len(rows) == 12 and invoice > 0

    for kind, name in [("VirtualKey", "ci"), ("Budget", "everybody")]:
        tollgate.wait_until_spent(kind, name, invoice, SPENT_SECONDS - (time.monotonic() - ended))
    print(f"SPENT was true {time.monotonic() - ended:.1f} s after the last call")
    # The books of both proxies together, to the nano-dollar.
    for budget in [f"{tollgate.tenant}/VirtualKey/ci", f"{tollgate.tenant}/Budget/everybody"]:
        tollgate.wait_until_booked(budget, lambda used: used == invoice)
    of_proxies = [tollgate.metric(pod, "tollgate_spend_usd_total", 'model="gpt-4o"') for pod in tollgate.proxies()]
    print("proxies spent", of_proxies, "the provider billed", invoice)
    assert sum(of_proxies) == invoice and all(of_proxies), of_proxies


def test_what_kubectl_shows(tollgate, served):
    tollgate.wait_for("VirtualKey", "ci", "Active", "True")
    shown, keys = tollgate.kubectl.get_table("virtualkeys", namespace=tollgate.tenant)
    print(shown)
    assert list(keys["ci"]) == ["NAME", "ACTIVE", "TEAM", "SPENT", "LIMIT", "USED%", "RESETS", "LAST-USED", "AGE"]
    ci = keys["ci"]
    assert (ci["ACTIVE"], ci["TEAM"], ci["LIMIT"], ci["USED%"]) == ("True", "-", "$25.00/month", "0%")
    assert ci["SPENT"].startswith("$0.") and ci["RESETS"].endswith("-01") and ci["AGE"]

    shown, models = tollgate.kubectl.get_table("modeldeployments", namespace=tollgate.tenant, wide=True)
    print(shown)
    gpt = models["gpt-4o"]
    assert list(gpt)[:7] == ["NAME", "READY", "PROVIDER", "MODEL", "NAMES", "P50", "AGE"]
    assert (gpt["READY"], gpt["PROVIDER"], gpt["MODEL"], gpt["NAMES"]) == ("True", "openai-compatible", "gpt-4o", "gpt-4o")
    assert (gpt["IN/1M"], gpt["OUT/1M"]) == ("$2.50", "$10.00")

    shown, budgets = tollgate.kubectl.get_table("budgets", namespace=tollgate.tenant)
    print(shown)
    everybody = budgets["everybody"]
    assert list(everybody) == ["NAME", "AVAILABLE", "SPENT", "LIMIT", "USED%", "HELD", "RESETS", "MODE", "AGE"]
    assert (everybody["AVAILABLE"], everybody["LIMIT"], everybody["HELD"], everybody["MODE"]) == ("True", "$100.00/year", "$0.00", "Hard")
    assert everybody["SPENT"] == ci["SPENT"]

    shown, gateways = tollgate.kubectl.get_table("llmgateways", namespace=tollgate.namespace)
    print(shown)
    gateway = gateways["default"]
    assert (gateway["READY"], gateway["PROXIES"], gateway["KEYS"]) == ("True", "2/2", "1")
    assert gateway["ADDRESS"].startswith(tollgate.url)
    # Every kind is in the category.
    everything = tollgate.kubectl.run("get", "tollgate", "--namespace", tollgate.tenant)
    assert all(f"{kind}.tollgate.dev/" in everything for kind in ["modeldeployment", "virtualkey", "budget"]), everything


def test_a_wrong_key_is_refused(tollgate, served, agent):
    with pytest.raises(KubectlError, match="AuthenticationError"):
        agent.run(CALLS, tollgate.url, "sk-of-nobody", "gpt-4o", 1, json.dumps(MESSAGES))


def test_a_namespace_that_the_gateway_does_not_allow_is_told_so(tollgate, node):
    other = node.make_namespace("not-allowed")
    try:
        tollgate.kubectl.apply([{**tollgate.model("gpt-4o"), "metadata": {"name": "gpt-4o", "namespace": other}}])
        told = tollgate.wait_for("ModelDeployment", "gpt-4o", "Accepted", "False", namespace=other)
        assert condition(told, "Ready") == "False"
    finally:
        node.delete_namespace(other)


def test_scaling_and_rolling_out(tollgate, served):
    where = ["--namespace", tollgate.namespace]
    for replicas in [3, 2]:
        tollgate.kubectl.run("scale", "llmgateway/default", f"--replicas={replicas}", *where)
        tollgate.api.wait_until(
            f"/apis/apps/v1/namespaces/{tollgate.namespace}/deployments/tollgate",
            lambda deployment: deployment["spec"]["replicas"] == replicas and deployment["status"].get("readyReplicas") == replicas,
        )
        assert "successfully rolled out" in tollgate.kubectl.run("rollout", "status", "deployment/tollgate", "--timeout=60s", *where)
        tollgate.api.wait_until(
            tollgate.path("LLMGateway", "default", tollgate.namespace), lambda gateway: gateway["status"]["proxies"] == f"{replicas}/{replicas}",
        )
    assert len(tollgate.proxies()) == 2


def test_helm_test_passes(tollgate, served):
    said = tollgate.helm.run("test", "tollgate", "--namespace", tollgate.namespace, "--timeout", f"{HELM_SECONDS}s", seconds=HELM_SECONDS + 20)
    assert "Succeeded" in said, said


def test_when_a_key_was_used_and_how_long_calls_take_is_shown(tollgate, served):
    # Proxies are asked for it less than twice a minute.
    for kind, name, field in [("VirtualKey", "ci", "lastUsedAt"), ("ModelDeployment", "gpt-4o", "p50")]:
        tollgate.api.wait_until(tollgate.path(kind, name), lambda thing: field in thing["status"], 60)
    shown, keys = tollgate.kubectl.get_table("virtualkeys", namespace=tollgate.tenant)
    print(shown)
    assert keys["ci"]["LAST-USED"]
    shown, models = tollgate.kubectl.get_table("modeldeployments", namespace=tollgate.tenant)
    print(shown)
    assert models["gpt-4o"]["P50"].endswith("ms")


def test_an_upgrade_changes_what_its_values_say(tollgate, served, agent):
    before = {pod["metadata"]["name"] for pod in tollgate.proxies()}
    key_before = master_key(tollgate)
    # What is said of calls restarts no proxy; what is said of the operator restarts that.
    tollgate.upgrade({"log": {"level": "debug"}, "gateway": {"spec": {"defaults": {"maxOutputTokens": 1234}}, "masterKey": {"keep": True}}})
    tollgate.wait_for_gateway()
    gateway = tollgate.kubectl.get_json("llmgateway", "default", namespace=tollgate.namespace)
    assert gateway["spec"]["defaults"]["maxOutputTokens"] == 1234
    operator = tollgate.kubectl.get_json("deployment", "tollgate-operator", namespace=tollgate.namespace)
    assert "--log=debug" in operator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {pod["metadata"]["name"] for pod in tollgate.proxies()} == before
    assert master_key(tollgate) == key_before
    assert json.loads(agent.run(CALLS, tollgate.url, served, "gpt-4o", 1, json.dumps(MESSAGES)))


def master_key(tollgate):
    return tollgate.kubectl.get_json("secret", "tollgate-master", namespace=tollgate.namespace)["data"]["key"]


# The last of this file.
def test_uninstalling_leaves_what_it_was_asked_to_keep(tollgate, served, own_node):
    tollgate.uninstall()
    # Objects of the gateway go by their owner, pods when they have drained.
    pods = f"/api/v1/namespaces/{tollgate.namespace}/pods"
    for pod in tollgate.kubectl.get_json("pods", namespace=tollgate.namespace):
        tollgate.api.wait_until(f"{pods}/{pod['metadata']['name']}", lambda there: there is None, 60)
    kinds = tollgate.kubectl.run("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events") and kind != "leases.coordination.k8s.io"]
    deadline = time.monotonic() + 60
    usual = {"configmap/kube-root-ca.crt", "serviceaccount/default", "secret/tollgate-master"}
    while True:
        # The collector of garbage tells nobody when it is done.
        left = set(tollgate.kubectl.run("get", ",".join(kinds), "--output=name", "--namespace", tollgate.namespace).split())
        if left == usual or time.monotonic() > deadline:
            break
    assert left == usual
    cluster_wide = "clusterroles,clusterrolebindings,customresourcedefinitions"
    names = tollgate.kubectl.run("get", cluster_wide, "--selector=app.kubernetes.io/part-of=tollgate", "--output=name").split()
    assert names and all(name.startswith("customresourcedefinition") for name in names), names
    # What tenants wrote is theirs, and the key that was made for them too.
    assert tollgate.kubectl.get_json("virtualkey", "ci", namespace=tollgate.tenant)
    assert tollgate.generated_key("ci") == served

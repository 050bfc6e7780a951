"""What the operator makes beside tables, against a real API server and its controllers: what runs for a gateway, keys in
Secrets, and what it learns from proxies."""

import base64
import hashlib
import json

import pytest

from harness.api import path
from harness.operator import Operator
from harness.proxies import Proxies

TOLLGATE = "tollgate.dev/v1alpha1"
KEYS = "tollgate.dev/tables=keys"


@pytest.fixture
def operator(own_plane, crds, namespace):
    """An operator for the namespace of this test."""
    operator = Operator(own_plane, "operator", [namespace], own_plane.make_kubeconfig("operator", ["system:masters"]))
    yield operator
    operator.kill()


@pytest.fixture
def gateway(own_plane, operator, namespace):
    """The path of a gateway with two replicas that may run; its children are called `tollgate`."""
    own_plane.kubectl.apply([account(), object_of("LLMGateway", "default")], namespace=namespace)
    own_plane.api.wait_until(deployment(namespace), bool)
    return where(namespace, "LLMGateway", "default")


@pytest.fixture
def proxies(own_plane, gateway, namespace):
    proxies = Proxies(own_plane.api, namespace, "default")
    yield proxies
    proxies.stop()


def account():
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}}


def object_of(kind, name, **spec):
    return {"apiVersion": TOLLGATE, "kind": kind, "metadata": {"name": name}, "spec": spec}


def where(namespace, kind, name):
    return path(TOLLGATE, f"{kind.lower()}s", namespace, name)


def deployment(namespace):
    return path("apps/v1", "deployments", namespace, "tollgate")


def secret(namespace, name):
    return path("v1", "secrets", namespace, name)


def reason(thing, kind):
    conditions = (thing or {}).get("status", {}).get("conditions", [])
    return next((each["reason"] for each in conditions if each["type"] == kind), None)


def status(thing, kind):
    conditions = (thing or {}).get("status", {}).get("conditions", [])
    return next((each["status"] for each in conditions if each["type"] == kind), None)


def hash_of(there):
    return "sha256:" + hashlib.sha256(base64.b64decode(there["data"]["key"])).hexdigest()


def hashes_in_tables(api, namespace):
    shards = api.get(path("v1", "configmaps", namespace), labelSelector=KEYS)["items"]
    rows = [json.loads(line) for shard in shards for line in shard["data"]["keys.json"].splitlines()]
    return {"sha256:" + row["key"]["hash"] for row in rows if "key" in row}


def wait_for_tables(plane, namespace, holds):
    """Once the hashes of keys are so; each change of them is a change of the manifest."""
    manifest = path("v1", "configmaps", namespace, "tollgate-default-manifest")
    plane.api.wait_until(manifest, lambda there: there and holds(hashes_in_tables(plane.api, namespace)))


def test_a_gateway_waits_for_its_service_account(own_plane, operator, namespace):
    own_plane.kubectl.apply(object_of("LLMGateway", "default"), namespace=namespace)
    there = own_plane.api.wait_until(where(namespace, "LLMGateway", "default"), lambda there: reason(there, "Accepted") == "NamespaceNotPrepared")
    assert status(there, "Accepted") == "False"
    assert own_plane.api.find(deployment(namespace)) is None
    own_plane.kubectl.apply(account(), namespace=namespace)
    own_plane.api.wait_until(deployment(namespace), bool)
    own_plane.api.wait_until(where(namespace, "LLMGateway", "default"), lambda there: status(there, "Accepted") == "True")


def test_children_follow_the_gateway_and_nothing_else(own_plane, gateway, namespace):
    api = own_plane.api
    before = api.get(deployment(namespace))
    for version, kind in [("v1", "services"), ("policy/v1", "poddisruptionbudgets"), ("networking.k8s.io/v1", "networkpolicies")]:
        api.wait_until(path(version, kind, namespace, "tollgate"), bool)

    own_plane.kubectl.run("scale", "llmgateway/default", "--replicas=3", "--namespace", namespace)
    api.wait_until(deployment(namespace), lambda there: there["spec"]["replicas"] == 3)
    api.wait_until(gateway, lambda there: there.get("status", {}).get("replicas") == 3)

    # What somebody changes or deletes comes back.
    api.merge(deployment(namespace), {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}})
    api.wait_until(deployment(namespace), lambda there: there["spec"]["template"] == before["spec"]["template"])
    api.delete(path("v1", "services", namespace, "tollgate"))
    api.wait_until(path("v1", "services", namespace, "tollgate"), bool)

    # No pod restarts for what is routed.
    api.merge(gateway, {"spec": {"egress": {"allowedHosts": ["api.openai.com"]}}})
    api.wait_until(gateway, lambda there: there.get("status", {}).get("observedGeneration") == there["metadata"]["generation"])
    assert api.get(deployment(namespace))["spec"]["template"] == before["spec"]["template"]

    api.delete(gateway)
    api.wait_until(deployment(namespace), lambda there: there is None)
    api.wait_until(path("v1", "services", namespace, "tollgate"), lambda there: there is None)


def test_an_autoscaler_takes_over_the_number_of_pods_as_it_is(own_plane, gateway, namespace):
    api = own_plane.api
    api.merge(gateway, {"spec": {"replicas": 3}})
    version = api.wait_until(deployment(namespace), lambda there: there["spec"]["replicas"] == 3)["metadata"]["resourceVersion"]
    api.merge(gateway, {"spec": {"replicas": None, "autoscaling": {"minReplicas": 1, "maxReplicas": 5}}})
    autoscaler = path("autoscaling/v2", "horizontalpodautoscalers", namespace, "tollgate")
    api.wait_until(autoscaler, bool)
    # It is the autoscaler's now.
    api.merge(f"{deployment(namespace)}/scale", {"spec": {"replicas": 2}})
    seen = []
    for _, there in api.watch(path("apps/v1", "deployments", namespace), version, fieldSelector="metadata.name=tollgate"):
        seen.append(there["spec"]["replicas"])
        if seen[-1] == 2:
            break
    assert set(seen) == {3, 2}, seen
    api.merge(gateway, {"spec": {"replicas": 4, "autoscaling": None}})
    api.wait_until(deployment(namespace), lambda there: there["spec"]["replicas"] == 4)
    api.wait_until(autoscaler, lambda there: there is None)


def test_an_object_of_somebody_else_is_not_taken_over(own_plane, operator, namespace):
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "tollgate"}, "spec": {"ports": [{"port": 7}]}}
    own_plane.kubectl.apply([account(), theirs, object_of("LLMGateway", "default")], namespace=namespace)
    taken = lambda there: "NameTaken" in [each["reason"] for each in (there or {}).get("status", {}).get("conditions", [])]
    own_plane.api.wait_until(where(namespace, "LLMGateway", "default"), taken)
    assert own_plane.api.get(path("v1", "services", namespace, "tollgate"))["spec"]["ports"][0]["port"] == 7


def test_a_key_is_made_rotated_and_made_anew(own_plane, gateway, namespace):
    api = own_plane.api
    own_plane.kubectl.apply(object_of("VirtualKey", "ci", models=["m"], secret={"name": "ci-key"}), namespace=namespace)
    key = where(namespace, "VirtualKey", "ci")
    first = hash_of(api.wait_until(secret(namespace, "ci-key"), bool))
    api.wait_until(key, lambda there: there.get("status", {}).get("keyHash") == first)
    wait_for_tables(own_plane, namespace, lambda hashes: hashes == {first})

    api.merge(key, {"metadata": {"annotations": {"tollgate.dev/rotate": "now"}}})
    second = hash_of(api.wait_until(secret(namespace, "ci-key"), lambda there: hash_of(there) != first))
    # It is handed out only once it is remembered, beside the one before.
    remembered = api.get(key)["status"]
    assert (remembered["keyHash"], remembered["previousKeyHash"]) == (second, first)
    wait_for_tables(own_plane, namespace, lambda hashes: hashes == {first, second})

    # A Secret that was deleted may have leaked.
    api.delete(secret(namespace, "ci-key"))
    third = hash_of(api.wait_until(secret(namespace, "ci-key"), lambda there: there and hash_of(there) != second))
    wait_for_tables(own_plane, namespace, lambda hashes: third in hashes and second not in hashes)

    # What somebody writes into it is no key.
    api.merge(secret(namespace, "ci-key"), {"stringData": {"key": "mine"}})
    api.wait_until(secret(namespace, "ci-key"), lambda there: there["data"]["key"] != base64.b64encode(b"mine").decode())
    api.delete(key)
    api.wait_until(secret(namespace, "ci-key"), lambda there: there is None)


def test_nothing_is_wrong_with_keys_that_are_being_made(own_plane, gateway, namespace):
    names = [f"key-{number}" for number in range(20)]
    own_plane.kubectl.apply([object_of("VirtualKey", name, models=["m"], secret={"name": name}) for name in names], namespace=namespace)
    for name in names:
        own_plane.api.wait_until(where(namespace, "VirtualKey", name), lambda there: status(there, "Active") == "True")
    events = own_plane.api.get(path("events.k8s.io/v1", "events", namespace))["items"]
    assert [event["note"] for event in events if event["regarding"]["kind"] == "VirtualKey" and event["type"] == "Warning"] == []


def test_a_secret_of_somebody_else_is_never_written(own_plane, gateway, namespace):
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "stringData": {"key": "x"}}
    key = object_of("VirtualKey", "ci", models=["m"], secret={"name": "theirs"})
    own_plane.kubectl.apply([theirs, key], namespace=namespace)
    own_plane.api.wait_until(where(namespace, "VirtualKey", "ci"), lambda there: reason(there, "ResolvedRefs") == "SecretNotOurs")
    assert base64.b64decode(own_plane.api.get(secret(namespace, "theirs"))["data"]["key"]) == b"x"


def test_proxies_make_programmed_and_their_probes_make_ready(own_plane, proxies, gateway, namespace):
    api = own_plane.api
    proxies.verdict = {"ok": False, "reason": "Unauthorized", "message": "the provider refuses the credential"}
    model = object_of("ModelDeployment", "gpt", provider="openai", model="gpt-4o")
    model["spec"]["credential"] = {"secretRef": {"name": "openai", "key": "key"}}
    openai = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "openai"}, "stringData": {"key": "sk-one"}}
    own_plane.kubectl.apply([openai, model, object_of("VirtualKey", "ci", models=["gpt"], secret={"name": "ci-key"})], namespace=namespace)
    api.wait_until(where(namespace, "VirtualKey", "ci"), lambda there: status(there, "Programmed") == "True")
    own_plane.kubectl.run("rollout", "status", "deployment/tollgate", "--timeout=30s", "--namespace", namespace)
    api.wait_until(gateway, lambda there: there.get("status", {}).get("proxies") == "2/2")
    api.wait_until(where(namespace, "ModelDeployment", "gpt"), lambda there: reason(there, "Ready") == "Unauthorized")

    # What changed is probed at once, not at its interval of 30 s.
    proxies.verdict = {"ok": True, "reason": "Reachable", "message": "it answers"}
    api.merge(secret(namespace, "openai"), {"stringData": {"key": "sk-two"}})
    own_plane.kubectl.wait("modeldeployment/gpt", "condition=Ready", namespace=namespace, seconds=10)
    assert proxies.probed == [f"{namespace}/gpt"] * 2

    proxies.used = {
        "cursor": 2,
        "keys": [{"name": f"{namespace}/ci", "lastUsedAt": 1_800_000_125}],
        "deployments": [{"name": f"{namespace}/gpt", "p50Ms": 412}],
    }
    there = api.wait_until(where(namespace, "VirtualKey", "ci"), lambda there: there["status"].get("lastUsedAt"))
    assert there["status"]["lastUsedAt"] == "2027-01-15T08:02:00Z"
    api.wait_until(where(namespace, "ModelDeployment", "gpt"), lambda there: there["status"].get("p50") == "412ms")

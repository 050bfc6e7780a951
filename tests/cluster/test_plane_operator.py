"""The operator against a real API server: from objects to tables and conditions, what it writes and what it never writes,
two operators and one leader, an API server that goes away."""

import base64
import json
import time

import pytest

from harness.api import path
from harness.objects import TOLLGATE, object_of, secret_ref, wait_for, where
from harness.operator import Operator

READS = ("get", "list", "watch")


@pytest.fixture
def setup(own_plane, crds, namespace):
    """A gateway, a deployment with its Secret, a key, in one namespace."""
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": "g"}, "spec": {}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "openai"}, "stringData": {"key": "sk-one"}},
        object_of("ModelDeployment", "gpt", provider="openai", model="gpt-4o", credential=secret_ref("openai")),
        object_of("VirtualKey", "ci", models=["gpt"], keyHash="sha256:" + "41a6d46d" * 8),
    ], namespace=namespace)
    return namespace


def config_map(namespace, name):
    return path("v1", "configmaps", namespace, f"tollgate-g-{name}")


def manifest(plane, namespace):
    there = plane.api.find(config_map(namespace, "manifest"))
    return json.loads(there["data"]["manifest.json"]) if there else None


def wait_for_generation(plane, namespace, above):
    is_above = lambda there: there and json.loads(there["data"]["manifest.json"])["generation"] > above
    there = plane.api.wait_until(config_map(namespace, "manifest"), is_above)
    return json.loads(there["data"]["manifest.json"])


def writes(plane, since, user):
    """Verb and resource of what a user wrote since, but for its Lease and Events."""
    calls = plane.audit.calls(since, user)
    calls = [call for call in calls if call.verb not in READS and call.resource not in ("leases", "events")]
    return sorted((call.verb, f"{call.resource}/{call.subresource}".rstrip("/"), call.name) for call in calls)


def settled(operator, renewals=3):
    """Nothing waits to be written, and what a new leader gives others time for is over."""
    operator.renewals(renewals)
    operator.process.wait_until(lambda: operator.metric("status_queue") == 0)


def test_objects_become_tables_and_conditions(own_plane, start, setup):
    start("operator")
    deployment = wait_for(own_plane, setup, "ModelDeployment", "gpt", Accepted=("True", "Accepted"), ResolvedRefs=("True", "ResolvedRefs"))
    assert deployment["status"]["names"] == "gpt"
    key = wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"), Programmed=("Unknown", "NoProxies"))
    assert key["status"]["keyHash"] == "sha256:" + "41a6d46d" * 8

    written = manifest(own_plane, setup)
    names = [part["name"] for part in written["policy"] + written["keys"]]
    assert (written["generation"], names) == (1, ["tollgate-g-policy-0", "tollgate-g-keys"])
    gateway = own_plane.api.get(where(setup, "LLMGateway", "g"))
    for name in names:
        owner = own_plane.api.get(path("v1", "configmaps", setup, name))["metadata"]["ownerReferences"][0]
        assert (owner["uid"], owner["controller"]) == (gateway["metadata"]["uid"], True)
    secret = own_plane.api.get(path("v1", "secrets", setup, "tollgate-g-credentials-0"))
    credentials = json.loads(base64.b64decode(secret["data"]["credentials.json"]))["credentials"]
    assert credentials == {f"{setup}/openai/key": "sk-one"}


def test_an_edit_writes_two_tables_and_what_changed_and_rest_is_the_lease(own_plane, start, setup):
    operator = start("operator")
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
    # The gateway shows what the controllers of the cluster did with its Deployment, and these may take their time.
    has_pods = lambda there: there and there.get("status", {}).get("replicas") == 2
    own_plane.api.wait_until(path("apps/v1", "deployments", setup, "tollgate-g"), has_pods)
    settled(operator)
    position = own_plane.audit.position()
    own_plane.api.merge(where(setup, "VirtualKey", "ci"), {"spec": {"disabled": True}})
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("False", "Disabled"))
    settled(operator, renewals=1)
    assert writes(own_plane, position, "operator") == [
        # How many keys work.
        ("patch", "llmgateways/status", "g"),
        ("patch", "virtualkeys/status", "ci"),
        ("update", "configmaps", "tollgate-g-keys"),
        ("update", "configmaps", "tollgate-g-manifest"),
    ]
    position = own_plane.audit.position()
    operator.renewals(3)
    assert writes(own_plane, position, "operator") == []


def test_a_namespace_that_is_gone_does_not_keep_others_waiting(own_plane, setup):
    # A namespace that is deleted takes along what let the operator look at it.
    group = "rbac.authorization.k8s.io"
    subject = {"apiGroup": group, "kind": "User", "name": "of-one-namespace"}
    own_plane.kubectl.apply([
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "all"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]},
        {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": {"name": "all"}, "roleRef": {"apiGroup": group, "kind": "Role", "name": "all"}, "subjects": [subject]},
    ], namespace=setup)
    operator = Operator(own_plane, "of-one-namespace", [setup, "gone"], own_plane.make_kubeconfig("of-one-namespace"))
    try:
        wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
        assert "VirtualKey of namespace `gone` may not be listed" in operator.process.story(400)
    finally:
        operator.kill()


def test_a_virtual_key_that_is_made_again_has_its_key_at_once(own_plane, start, setup):
    start("operator")
    made = object_of("VirtualKey", "made", models=["gpt"], secret={"name": "made"})
    where_it_is, secret = where(setup, "VirtualKey", "made"), path("v1", "secrets", setup, "made")
    uids = set()
    # The garbage collector takes the old Secret away when the next one may be wanted already.
    for _ in range(3):
        own_plane.api.create(path(TOLLGATE, "virtualkeys", setup), made)
        begun = time.monotonic()
        wait_for(own_plane, setup, "VirtualKey", "made", Active=("True", "Active"))
        uid = own_plane.api.get(where_it_is)["metadata"]["uid"]
        own_plane.api.wait_until(secret, lambda there: there and there["metadata"]["ownerReferences"][0]["uid"] == uid)
        assert time.monotonic() - begun < 12, "who waits for a status of one that is gone waits for 15 s"
        uids.add(uid)
        own_plane.api.delete(where_it_is)
    assert len(uids) == 3


def test_a_secret_that_changes_is_in_the_tables_at_once(own_plane, start, setup):
    start("operator")
    generation = wait_for_generation(own_plane, setup, 0)["generation"]
    secret = base64.b64encode(b"sk-two").decode()
    own_plane.api.merge(path("v1", "secrets", setup, "openai"), {"data": {"key": secret}})
    wait_for_generation(own_plane, setup, generation)
    there = own_plane.api.get(path("v1", "secrets", setup, "tollgate-g-credentials-0"))
    assert "sk-two" in base64.b64decode(there["data"]["credentials.json"]).decode()


def test_prices_of_a_config_map_hold_follow_it_and_stay_when_it_goes(own_plane, start, setup):
    start("operator")
    gpt = where(setup, "ModelDeployment", "gpt")
    costs = lambda price: own_plane.api.wait_until(gpt, lambda there: there.get("status", {}).get("inputPrice") == price)
    costs("$2.50")
    overlays = [{"name": "agreed", "configMapRef": {"name": "agreed", "key": "prices"}}]
    own_plane.api.merge(where(setup, "LLMGateway", "g"), {"spec": {"prices": {"overlays": overlays}}})
    wait_for(own_plane, setup, "LLMGateway", "g", ResolvedRefs=("False", "NotFound"))
    line = '{"m":"gpt-4o","p":"openai","k":"chat","r":["in %s","out 0.00001"]}'
    agreed = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "agreed"}, "data": {"prices": line % "0.000002"}}
    own_plane.kubectl.apply(agreed, namespace=setup)
    costs("$2.00")
    wait_for(own_plane, setup, "LLMGateway", "g", ResolvedRefs=("True", "ResolvedRefs"))
    own_plane.api.merge(path("v1", "configmaps", setup, "agreed"), {"data": {"prices": line % "0.000003"}})
    costs("$3.00")
    tables = own_plane.api.get(config_map(setup, "policy-0"))["data"]
    assert any("overlay agreed gpt-4o #" in text for text in tables.values())
    own_plane.api.delete(path("v1", "configmaps", setup, "agreed"))
    wait_for(own_plane, setup, "LLMGateway", "g", ResolvedRefs=("False", "NotFound"))
    assert own_plane.api.get(gpt)["status"]["inputPrice"] == "$3.00"


def test_a_certificate_that_is_missing_is_told_by_the_name_of_its_secret(own_plane, start, setup):
    start("operator")
    wait_for(own_plane, setup, "LLMGateway", "g", ResolvedRefs=("True", "ResolvedRefs"))
    listeners = [{"name": "https", "port": 4443, "tls": {"certificateRef": {"name": "gateway-tls"}}}]
    own_plane.api.merge(where(setup, "LLMGateway", "g"), {"spec": {"listeners": listeners}})
    gateway = wait_for(own_plane, setup, "LLMGateway", "g", ResolvedRefs=("False", "NotFound"))
    message = next(each["message"] for each in gateway["status"]["conditions"] if each["type"] == "ResolvedRefs")
    assert "Secret `gateway-tls` does not exist" in message, message
    tls = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "gateway-tls"}, "stringData": {"tls.crt": "a certificate", "tls.key": "its key"}}
    own_plane.kubectl.apply(tls, namespace=setup)
    wait_for(own_plane, setup, "LLMGateway", "g", ResolvedRefs=("True", "ResolvedRefs"))


def test_tables_that_somebody_spoils_are_written_again(own_plane, start, setup):
    start("operator")
    wait_for_generation(own_plane, setup, 0)
    good = own_plane.api.get(config_map(setup, "keys"))["data"]
    own_plane.api.merge(config_map(setup, "keys"), {"data": {"keys.json": "spoilt"}})
    own_plane.api.wait_until(config_map(setup, "keys"), lambda there: there["data"] == good)
    uid = own_plane.api.get(config_map(setup, "policy-0"))["metadata"]["uid"]
    own_plane.api.delete(config_map(setup, "policy-0"))
    own_plane.api.wait_until(config_map(setup, "policy-0"), lambda there: there and there["metadata"]["uid"] != uid)


def test_what_is_not_the_operators_is_left_alone(own_plane, start, setup):
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tollgate-g-manifest"}, "data": {"mine": "yes"}}
    own_plane.kubectl.apply(foreign, namespace=setup)
    start("operator")
    wait_for(own_plane, setup, "VirtualKey", "ci", Programmed=("False", "NameTaken"))
    assert own_plane.api.get(config_map(setup, "manifest"))["data"] == {"mine": "yes"}
    # Once the place is free it is taken.
    own_plane.api.delete(config_map(setup, "manifest"))
    wait_for(own_plane, setup, "VirtualKey", "ci", Programmed=("Unknown", "NoProxies"))


def test_a_broken_object_stops_no_other(own_plane, start, setup):
    start("operator")
    own_plane.kubectl.apply([
        object_of("ModelDeployment", "broken", provider="no-such-provider", model="m"),
        object_of("VirtualKey", "twin", models=["gpt"], keyHash="sha256:" + "41a6d46d" * 8),
        object_of("VirtualKey", "other", models=["gpt"], keyHash="sha256:" + "01234567" * 8),
    ], namespace=setup)
    wait_for(own_plane, setup, "ModelDeployment", "broken", Accepted=("False", "UnknownProvider"), Programmed=("False", "NotInUse"))
    wait_for(own_plane, setup, "VirtualKey", "twin", Accepted=("False", "Duplicate"), Active=("False", "Duplicate"))
    wait_for(own_plane, setup, "VirtualKey", "other", Active=("True", "Active"))


def test_a_budget_that_never_could_be_read_admits_nothing_and_its_keys_say_so(own_plane, start, setup):
    start("operator")
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
    own_plane.kubectl.apply(object_of("Budget", "b", limit="1", period={"calendar": "Day", "timeZone": "Mars/Base"}), namespace=setup)
    refused = ("False", "InvalidValue")
    wait_for(own_plane, setup, "Budget", "b", Accepted=refused, Available=refused, Programmed=("Unknown", "NoProxies"))
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=refused)
    # What came of it is no good state that the next round would keep.
    own_plane.kubectl.apply(object_of("Team", "t"), namespace=setup)
    wait_for(own_plane, setup, "Team", "t", Programmed=("Unknown", "NoProxies"))
    wait_for(own_plane, setup, "Budget", "b", Available=refused, Programmed=("Unknown", "NoProxies"))
    own_plane.api.merge(where(setup, "Budget", "b"), {"spec": {"period": {"timeZone": "Europe/Vienna"}}})
    wait_for(own_plane, setup, "Budget", "b", Available=("True", "Available"))
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))


def test_the_next_operator_goes_on_where_the_leader_stopped(own_plane, start, setup):
    first = start("first")
    wait_for(own_plane, setup, "VirtualKey", "ci", Programmed=("Unknown", "NoProxies"))
    settled(first)
    second = start("second")
    assert not second.leads()
    position = own_plane.audit.position()
    assert first.stop() == 0
    # Less than the time after which a Lease is over: it was given back.
    second.wait_until_it_leads(seconds=5)
    settled(second)
    assert writes(own_plane, position, "second") == [], "what is right already is not written again"
    events = own_plane.api.get(path("events.k8s.io/v1", "events", setup))["items"]
    assert [event["reason"] for event in events if event["type"] == "Warning"] == [], "and nothing was wrong meanwhile"
    own_plane.api.merge(where(setup, "VirtualKey", "ci"), {"spec": {"disabled": True}})
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("False", "Disabled"))
    assert manifest(own_plane, setup)["generation"] == 2
    assert writes(own_plane, position, "first") == []


def test_the_operator_survives_an_api_server_that_goes_away(own_plane, start, setup):
    operator = start("operator")
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
    own_plane.restart_apiserver()
    own_plane.api.merge(where(setup, "VirtualKey", "ci"), {"spec": {"disabled": True}})
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("False", "Disabled"))
    assert operator.process.is_running()


def test_a_secret_that_may_not_be_read_is_named_until_it_may(own_plane, start, setup):
    binding = grant(own_plane, setup)
    start("bound", own_plane.make_service_account_kubeconfig(setup, "operator"))
    deployment = wait_for(own_plane, setup, "ModelDeployment", "gpt", ResolvedRefs=("False", "SecretForbidden"))
    message = next(each["message"] for each in deployment["status"]["conditions"] if each["type"] == "ResolvedRefs")
    assert "RoleBinding" in message and "`openai`" in message
    # It stops no other.
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
    own_plane.kubectl.apply([
        role("reads-openai", [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["openai"], "verbs": ["get", "watch"]}]),
        {**binding, "metadata": {"name": "reads-openai"}, "roleRef": {**binding["roleRef"], "name": "reads-openai"}},
    ], namespace=setup)
    wait_for(own_plane, setup, "ModelDeployment", "gpt", ResolvedRefs=("True", "ResolvedRefs"))


def role(name, rules):
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules}


def grant(plane, namespace):
    """A ServiceAccount `operator` with everything in its namespace but Secrets that it did not make; its RoleBinding."""
    own = [f"tollgate-g-credentials-{number}" for number in range(8)]
    everything = ["get", "list", "watch", "create", "update", "patch", "delete"]
    rules = [
        {"apiGroups": ["tollgate.dev"], "resources": ["*"], "verbs": READS},
        {"apiGroups": ["tollgate.dev"], "resources": ["*/status"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["configmaps", "services", "pods", "serviceaccounts"], "verbs": everything},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": own, "verbs": ["get", "watch", "patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": everything},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": everything},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": everything},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": everything},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
    ]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}}
    plane.kubectl.apply([account, role("operator", rules), binding], namespace=namespace)
    return binding

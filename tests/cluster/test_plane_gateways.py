"""Several gateways against a real API server: what is wrong with one is a finding on that one, and takes nothing from
others."""

import pytest

from harness.api import path
from harness.objects import condition, object_of, wait_for, where
from harness.operator import Operator
from harness.proxies import Proxies

ALL = {"from": "All"}
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}}
KEY = object_of("VirtualKey", "ci", models=["m"], keyHash="sha256:" + "41a6d46d" * 8)


@pytest.fixture
def tenant(own_plane):
    """A namespace in which nobody has prepared anything for a gateway."""
    tenant = own_plane.make_namespace("tenant")
    yield tenant
    own_plane.delete_namespace(tenant)


@pytest.fixture
def operator(own_plane, crds, namespace, tenant):
    kubeconfig = own_plane.make_kubeconfig("operator", ["system:masters"])
    operator = Operator(own_plane, "operator", [namespace, tenant], kubeconfig, home=namespace)
    yield operator
    operator.kill()


def tables_of_keys(plane, namespace):
    """Names and resourceVersions of the tables that hold a key."""
    listed = plane.api.get(path("v1", "configmaps", namespace), labelSelector="tollgate.dev/tables=keys,tollgate.dev/gateway=g")
    rows = [each["metadata"] for each in listed["items"] if "41a6d46d" in each["data"]["keys.json"]]
    return [(row["name"], row["resourceVersion"]) for row in rows]


def wait_for_key(plane, namespace, tenant):
    """The tables that hold the tenant's key, once they do."""
    wait_for(plane, tenant, "VirtualKey", "ci", Accepted=("True", "Accepted"), Active=("True", "Active"), Programmed=("Unknown", "NoProxies"))
    tables = tables_of_keys(plane, namespace)
    assert len(tables) == 1
    return tables


def test_a_gateway_that_cannot_be_made_takes_no_keys_from_the_one_that_serves(own_plane, operator, namespace, tenant):
    own_plane.kubectl.apply([ACCOUNT, object_of("LLMGateway", "g", allowedNamespaces=ALL)], namespace=namespace)
    own_plane.kubectl.apply(KEY, namespace=tenant)
    tables = wait_for_key(own_plane, namespace, tenant)
    for spec in [{}, {"default": True, "allowedNamespaces": ALL}]:
        own_plane.kubectl.apply(object_of("LLMGateway", "mine", **spec), namespace=tenant)
        wait_for(own_plane, tenant, "LLMGateway", "mine", Accepted=("False", "NamespaceNotPrepared"))
        # What was written of both shows the next round as well.
        own_plane.api.merge(where(namespace, "LLMGateway", "g"), {"spec": {"egress": {"allowedHosts": [f"{len(spec)}.example"]}}})
        wait_for(own_plane, namespace, "LLMGateway", "g", Accepted=("True", "Accepted"))
        assert wait_for_key(own_plane, namespace, tenant) == tables, "never without it"
    # Once it can be made, it is the default that it says it is.
    own_plane.kubectl.apply(ACCOUNT, namespace=tenant)
    wait_for(own_plane, tenant, "LLMGateway", "mine", Accepted=("True", "Accepted"))
    own_plane.api.wait_until(path("v1", "configmaps", namespace, tables[0][0]), lambda there: not there or "41a6d46d" not in there["data"]["keys.json"])


def test_the_platforms_default_gateway_is_the_default_again_when_it_is_made_anew(own_plane, operator, namespace, tenant):
    gateway = object_of("LLMGateway", "g", default=True, allowedNamespaces=ALL)
    own_plane.kubectl.apply([ACCOUNT, gateway], namespace=namespace)
    wait_for(own_plane, namespace, "LLMGateway", "g", Accepted=("True", "Accepted"))
    own_plane.kubectl.apply([ACCOUNT, object_of("LLMGateway", "mine", default=True, allowedNamespaces=ALL), KEY], namespace=tenant)
    wait_for(own_plane, tenant, "LLMGateway", "mine", Accepted=("False", "Duplicate"))
    wait_for_key(own_plane, namespace, tenant)

    own_plane.api.delete(where(namespace, "LLMGateway", "g"))
    wait_for(own_plane, tenant, "LLMGateway", "mine", Accepted=("True", "Accepted"))
    own_plane.kubectl.apply(gateway, namespace=namespace)
    wait_for(own_plane, namespace, "LLMGateway", "g", Accepted=("True", "Accepted"))
    wait_for(own_plane, tenant, "LLMGateway", "mine", Accepted=("False", "Duplicate"))
    wait_for_key(own_plane, namespace, tenant)


def test_a_gateway_that_is_not_up_makes_nothing_of_others_unready(own_plane, operator, namespace, tenant):
    api = own_plane.api
    own_plane.kubectl.apply([ACCOUNT, object_of("LLMGateway", "g", replicas=1, default=True, allowedNamespaces=ALL)], namespace=namespace)
    proxies = Proxies(api, namespace, "g")
    try:
        own_plane.kubectl.apply([
            object_of("Team", "t"),
            object_of("Budget", "b", limit="1", period={"lifetime": {}}),
            object_of("ProviderAccount", "a", provider="vllm", endpoint={"baseURL": "http://vllm.example"}),
            object_of("ModelDeployment", "m", accountRef={"name": "a"}, model="m", pricing={"free": True}),
            object_of("RouteGroup", "r", targets=[{"name": "m", "modelDeploymentRef": {"name": "m"}}]),
        ], namespace=namespace)
        objects = [("Team", "t"), ("Budget", "b"), ("ProviderAccount", "a"), ("ModelDeployment", "m"), ("RouteGroup", "r")]
        ready = {each: since(wait_for(own_plane, namespace, *each, Ready=("True", "Ready")), "Ready") for each in objects}

        # Nobody can run it; then everybody could, and no node does.
        own_plane.kubectl.apply(object_of("LLMGateway", "third", replicas=1, allowedNamespaces=ALL), namespace=tenant)
        wait_for(own_plane, tenant, "LLMGateway", "third", Accepted=("False", "NamespaceNotPrepared"))
        for accepted in ["NamespaceNotPrepared", "Accepted"]:
            if accepted == "Accepted":
                own_plane.kubectl.apply(ACCOUNT, namespace=tenant)
                wait_for(own_plane, tenant, "LLMGateway", "third", Accepted=("True", "Accepted"), Programmed=("Unknown", "NoProxies"))
            # What is made now is looked at after all of that.
            own_plane.kubectl.apply(object_of("Team", accepted.lower()), namespace=namespace)
            wait_for(own_plane, namespace, "Team", accepted.lower(), Ready=("True", "Ready"))
            for each in objects:
                there = wait_for(own_plane, namespace, *each, Ready=("True", "Ready"))
                assert since(there, "Ready") == ready[each], each
    finally:
        proxies.stop()


def since(thing, kind):
    """When a condition became what it is."""
    return next(each["lastTransitionTime"] for each in thing["status"]["conditions"] if each["type"] == kind)


def test_a_gateway_is_not_accepted_before_somebody_has_looked(own_plane, operator, namespace):
    own_plane.kubectl.apply([ACCOUNT, object_of("LLMGateway", "g")], namespace=namespace)
    there = wait_for(own_plane, namespace, "LLMGateway", "g", Accepted=("True", "Accepted"))
    too_little = {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}
    own_plane.api.merge(where(namespace, "LLMGateway", "g"), {"spec": {"podTemplate": {"resources": too_little}}})
    seen = []
    for _, there in own_plane.api.watch(where(namespace, "LLMGateway"), there["metadata"]["resourceVersion"]):
        seen.append(condition(there, "Accepted"))
        if seen[-1] == ("False", "Invalid"):
            break
    # Before its status is of the new version it says nothing of that.
    assert {each for each in seen if each} <= {("Unknown", "Pending"), ("False", "Invalid")}, seen

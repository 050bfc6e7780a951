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

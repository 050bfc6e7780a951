"""What the operator made and what it did not: others' edits, others' objects, and what goes with its owner."""

import base64

import pytest

from harness.api import path
from harness.kubectl import KubectlError
from harness.objects import object_of, wait_for, where
from harness.operator import Operator

MANAGED = {"tollgate.dev/gateway": "g"}
CHILDREN = [
    ("v1", "services"),
    ("apps/v1", "deployments"),
    ("policy/v1", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "networkpolicies"),
    ("autoscaling/v2", "horizontalpodautoscalers"),
]
# An object of somebody else under the name that a gateway's child wants.
FOREIGN = {
    "Service": {"apiVersion": "v1", "spec": {"ports": [{"port": 1}]}},
    "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {"matchLabels": {"a": "b"}}}},
    "PodDisruptionBudget": {"apiVersion": "policy/v1", "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}},
    "HorizontalPodAutoscaler": {
        "apiVersion": "autoscaling/v2",
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mine"}},
    },
    "Deployment": {
        "apiVersion": "apps/v1",
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        },
    },
}
PLURALS = {"NetworkPolicy": "networkpolicies"}


@pytest.fixture
def setup(own_plane, crds, namespace):
    """A gateway that has every kind of child, a key that is generated, and an operator."""
    own_plane.kubectl.apply([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tollgate-proxy"}},
        object_of("LLMGateway", "g", autoscaling={"minReplicas": 2, "maxReplicas": 4}),
        object_of("VirtualKey", "ci", models=["*"], secret={"name": "ci"}),
    ], namespace=namespace)
    return namespace


@pytest.fixture
def operator(own_plane, setup):
    operator = Operator(own_plane, "operator", [setup], own_plane.make_kubeconfig("operator", ["system:masters"]))
    yield operator
    operator.kill()


def child(namespace, version, plural):
    return path(version, plural, namespace, "tollgate-g")


def wait_for_children(plane, namespace):
    for version, plural in CHILDREN:
        plane.api.wait_until(child(namespace, version, plural), lambda there: there is not None)
    wait_for(plane, namespace, "LLMGateway", "g", Accepted=("True", "Accepted"))


def test_an_edit_of_what_the_operator_sets_is_a_conflict_and_does_not_last(own_plane, setup, operator):
    wait_for_children(own_plane, setup)
    service = child(setup, "v1", "services")
    before = own_plane.api.get(service)
    selector = {"app.kubernetes.io/name": "other"}
    edit = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "tollgate-g", "annotations": {"example.com/mine": "yes"}}, "spec": {"selector": selector}}
    with pytest.raises(KubectlError, match='conflict with "tollgate-operator"'):
        own_plane.kubectl.apply(edit, "--server-side", namespace=setup)
    own_plane.kubectl.apply(edit, "--server-side", "--force-conflicts", namespace=setup)
    after = own_plane.api.wait_until(service, lambda there: there["spec"]["selector"] == before["spec"]["selector"])
    # What the operator does not set is nobody's business but the user's.
    assert after["metadata"]["annotations"]["example.com/mine"] == "yes"
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_what_somebody_deletes_is_made_again(own_plane, setup, operator):
    wait_for_children(own_plane, setup)
    for version, plural in CHILDREN:
        where_it_is = child(setup, version, plural)
        uid = own_plane.api.get(where_it_is)["metadata"]["uid"]
        own_plane.api.delete(where_it_is)
        own_plane.api.wait_until(where_it_is, lambda there: there and there["metadata"]["uid"] != uid)


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_object_of_somebody_else_is_not_taken_over(own_plane, setup, request, kind):
    # Labels can be copied; who owns it is what counts.
    foreign = {"kind": kind, **FOREIGN[kind], "metadata": {"name": "tollgate-g", "labels": MANAGED}}
    own_plane.kubectl.apply(foreign, namespace=setup)
    place = child(setup, foreign["apiVersion"], PLURALS.get(kind, kind.lower() + "s"))
    mine = own_plane.api.get(place)
    request.getfixturevalue("operator")
    gateway = wait_for(own_plane, setup, "LLMGateway", "g", Accepted=("False", "NameTaken"))
    assert any(kind in each["message"] for each in gateway["status"]["conditions"] if each["type"] == "Accepted")
    now = own_plane.api.get(place)
    assert (now["spec"], now["metadata"].get("ownerReferences")) == (mine["spec"], None)
    assert {each["manager"] for each in now["metadata"]["managedFields"]}.isdisjoint({"tollgate-operator"})
    own_plane.api.delete(place)
    wait_for_children(own_plane, setup)


def test_a_secret_of_somebody_else_is_not_written(own_plane, setup, request):
    mine = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ci", "labels": {"tollgate.dev/virtualkey": "ci"}}, "stringData": {"key": "sk-mine"}}
    own_plane.kubectl.apply(mine, namespace=setup)
    place = path("v1", "secrets", setup, "ci")
    before = own_plane.api.get(place)
    request.getfixturevalue("operator")
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("False", "SecretNotOurs"))
    assert own_plane.api.get(place) == before
    own_plane.api.delete(place)
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
    assert base64.b64decode(own_plane.api.get(place)["data"]["key"]).startswith(b"sk-")


def test_all_that_was_made_goes_with_its_owner(own_plane, setup, operator):
    wait_for_children(own_plane, setup)
    wait_for(own_plane, setup, "VirtualKey", "ci", Active=("True", "Active"))
    kinds = [*CHILDREN, ("v1", "configmaps"), ("v1", "secrets")]
    made = [
        path(version, plural, setup, each["metadata"]["name"])
        for version, plural in kinds
        for each in own_plane.api.get(path(version, plural, setup), labelSelector="tollgate.dev/gateway=g")["items"]
    ]
    assert len(made) >= len(CHILDREN) + 4, made
    own_plane.api.delete(where(setup, "LLMGateway", "g"))
    for each in made:
        own_plane.api.wait_until(each, lambda there: there is None)
    # Of its key, which is still there; then it goes as well.
    secret = path("v1", "secrets", setup, "ci")
    assert own_plane.api.find(secret)
    own_plane.api.delete(where(setup, "VirtualKey", "ci"))
    own_plane.api.wait_until(secret, lambda there: there is None)
    assert operator.process.is_running()

"""The control plane is a real one, takes Tollgate's CRDs and holds objects against them; and the harness tells the truth."""

import copy
import pathlib

import pytest
import urllib3
import yaml

from harness import cluster as clusters, programs
from harness.api import ApiError, path
from harness.helm import Helm
from harness.kubectl import KubectlError

TOLLGATE = "tollgate.dev/v1alpha1"
EVERY_FIELD = pathlib.Path(__file__).resolve().parents[2] / "crds/tests/every_field.yaml"

KEY = {"apiVersion": TOLLGATE, "kind": "VirtualKey", "metadata": {"name": "a"}, "spec": {"models": ["m"], "secret": {"name": "a"}}}
DEPLOYMENT = {"apiVersion": TOLLGATE, "kind": "ModelDeployment", "metadata": {"name": "a"}, "spec": {"provider": "openai", "model": "m"}}
MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1", "b": "1"}}


def with_spec(document, name="a", **fields):
    changed = copy.deepcopy(document)
    changed["metadata"]["name"] = name
    changed["spec"].update(fields)
    return changed


def in_namespace(text, namespace):
    """The documents, all in one namespace: their names do not clash."""
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        document["metadata"]["namespace"] = namespace
    return documents


def test_server_and_client_know_each_others_version(plane):
    version = plane.kubectl.run("version")
    assert version.count("Version: v1.") == 2, version


def test_every_definition_is_accepted_without_a_warning(plane, crds):
    documents = clusters.crds()
    assert [document["spec"]["names"]["kind"] for document in documents] == [
        "LLMGateway", "ProviderAccount", "ModelDeployment", "RouteGroup", "Team", "VirtualKey", "Budget"
    ]
    plane.kubectl.run("replace", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", "-", text=yaml.safe_dump_all(documents))
    for document in documents:
        there = plane.api.get(f"{clusters.CRDS}/{document['metadata']['name']}")
        states = {condition["type"]: condition["status"] for condition in there["status"]["conditions"]}
        assert states == {"Established": "True", "NamesAccepted": "True"}, there["metadata"]["name"]


def test_every_sample_applies_and_comes_back_by_its_category(plane, crds, namespace, samples):
    documents = in_namespace(samples, namespace) + in_namespace(EVERY_FIELD.read_text(), namespace)
    said = plane.kubectl.apply(documents, "--validate=strict", "--warnings-as-errors")
    assert said.count(" created") == len(documents), said
    said = plane.kubectl.apply(documents, "--validate=strict", "--warnings-as-errors")
    assert said.count(" unchanged") == len(documents), said
    listed = plane.kubectl.get_json("tollgate", namespace=namespace)
    assert {(each["kind"], each["metadata"]["name"]) for each in listed} == {(each["kind"], each["metadata"]["name"]) for each in documents}


def test_defaults_appear(plane, crds, namespace):
    def created(plural, document):
        return plane.api.create(path(TOLLGATE, plural, namespace), document)["spec"]

    def budget(**fields):
        return {"apiVersion": TOLLGATE, "kind": "Budget", "metadata": {"name": "a"}, "spec": {"limit": "1", **fields}}

    assert created("virtualkeys", KEY)["secret"] == {"name": "a", "key": "key", "policy": "Generate"}
    spec = created("budgets", budget(period={"calendar": "Day"}))
    assert (spec["unit"], spec["enforcement"], spec["whenExhausted"]) == ("USD", "Hard", {"action": "Block"})
    spec = created("modeldeployments", DEPLOYMENT)
    assert (spec["weight"], spec["priority"], spec["probe"]) == (1, 0, {"mode": "Models", "interval": "30s"})
    gateway = {"apiVersion": TOLLGATE, "kind": "LLMGateway", "metadata": {"name": "a"}, "spec": {}}
    assert created("llmgateways", gateway)["listeners"] == [{"name": "http", "port": 4000}]


def test_a_null_is_a_field_that_is_not_there(plane, crds, namespace):
    document = with_spec(KEY, secret={"name": "a", "key": None}, keyHash=None)
    spec = plane.api.create(path(TOLLGATE, "virtualkeys", namespace), document)["spec"]
    assert spec["secret"]["key"] == "key"
    assert "keyHash" not in spec


def test_an_unknown_field_is_refused_if_asked_and_dropped_else(plane, crds, namespace):
    document = with_spec(KEY, colour="green")
    where = path(TOLLGATE, "virtualkeys", namespace)
    with pytest.raises(ApiError, match='unknown field "spec.colour"') as refused:
        plane.api.create(where, document)
    assert refused.value.code == 400
    assert "colour" not in plane.api.create(where, document, fieldValidation="Ignore")["spec"]


def test_a_broken_rule_is_told_in_its_own_words(plane, crds, namespace):
    with pytest.raises(KubectlError, match="exactly one of accountRef, provider must be set"):
        plane.kubectl.apply(with_spec(DEPLOYMENT, accountRef={"name": "a"}), namespace=namespace)
    plane.kubectl.apply(with_spec(KEY, gatewayRef={"name": "a"}), namespace=namespace)
    with pytest.raises(KubectlError, match="gatewayRef"):
        plane.kubectl.apply(with_spec(KEY, gatewayRef={"name": "b"}), namespace=namespace)


def test_status_is_apart_from_spec(plane, crds, namespace):
    where = path(TOLLGATE, "virtualkeys", namespace)
    made = plane.api.create(where, {**KEY, "status": {"observedGeneration": 7}})
    assert "status" not in made
    status = {"apiVersion": TOLLGATE, "kind": "VirtualKey", "metadata": {"name": "a"}, "status": {"observedGeneration": 1}}
    changed = plane.api.apply(f"{where}/a/status", status, "someone")
    assert changed["status"]["observedGeneration"] == 1
    assert changed["metadata"]["generation"] == 1


def test_managers_of_one_field_conflict(plane, namespace):
    where = path("v1", "configmaps", namespace, "a")
    plane.api.apply(where, MAP, "one")
    with pytest.raises(ApiError) as refused:
        plane.api.apply(where, {**MAP, "data": {"a": "2"}}, "two")
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    assert plane.api.apply(where, {**MAP, "data": {"a": "2"}}, "two", force=True)["data"] == {"a": "2", "b": "1"}


def test_what_is_owned_goes_with_its_owner(plane, namespace):
    if getattr(plane, "controllers", True) is None:
        pytest.skip("KUBEBUILDER_ASSETS holds no kube-controller-manager")
    where = path("v1", "configmaps", namespace)
    owner = plane.api.create(where, MAP)["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"], "uid": owner["uid"]}
    plane.api.create(where, {**MAP, "metadata": {"name": "owned", "ownerReferences": [reference]}})
    plane.api.delete(f"{where}/a")
    plane.api.wait_until(f"{where}/owned", lambda owned: owned is None)


@pytest.mark.parametrize("program", ["helm", "helm3"])
def test_a_chart_is_installed_upgraded_and_removed(plane, namespace, program, tmp_path):
    if programs.client(program) is None:
        pytest.skip(f"{program} is neither in KUBEBUILDER_ASSETS nor in the PATH")
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: small, version: 0.1.0}")
    (tmp_path / "templates/map.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: '{{ .Values.a }}'}}")
    helm = Helm(plane, program)
    where = path("v1", "configmaps", namespace, "a")
    for value in ["1", "2"]:
        helm.run("upgrade", "--install", "small", tmp_path, "--namespace", namespace, "--set-string", f"a={value}")
        assert plane.api.get(where)["data"] == {"a": value}
    helm.run("uninstall", "small", "--namespace", namespace)
    assert plane.api.find(where) is None


def test_objects_survive_a_restart_of_the_api_server(own_plane, namespace):
    where = path("v1", "configmaps", namespace, "a")
    before = own_plane.api.apply(where, MAP, "one")
    with own_plane.apiserver_gone(), pytest.raises(urllib3.exceptions.HTTPError):
        own_plane.api.get(where)
    assert own_plane.api.get(where) == before


def test_a_paused_api_server_answers_late(own_plane):
    with own_plane.apiserver_paused(), pytest.raises(urllib3.exceptions.HTTPError):
        own_plane.api.call("GET", "/version", seconds=0.3)
    assert own_plane.api.get("/version")["major"] == "1"


def test_the_audit_log_tells_who_was_refused_and_who_only_asked(own_plane, namespace):
    user = f"system:serviceaccount:{namespace}:reader"
    plane = own_plane
    plane.api.create(path("v1", "serviceaccounts", namespace), {"metadata": {"name": "reader"}})
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "watch"]}]
    plane.api.create(path("rbac.authorization.k8s.io/v1", "roles", namespace), {"metadata": {"name": "reader"}, "rules": rules})
    plane.api.create(path("rbac.authorization.k8s.io/v1", "rolebindings", namespace), {
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    })
    plane.api.create(path("v1", "configmaps", namespace), MAP)
    before = plane.audit.position()

    # Once as itself with a token, in another program, and once impersonated.
    kubeconfig = plane.make_service_account_kubeconfig(namespace, "reader")
    with pytest.raises(KubectlError, match="Forbidden"):
        plane.kubectl.run("--kubeconfig", kubeconfig, "get", "--raw", path("v1", "secrets", namespace))
    reader = plane.api.as_user(user, "system:serviceaccounts", "system:authenticated")
    assert reader.find(path("v1", "configmaps", namespace, "none")) is None
    watch = reader.watch(path("v1", "configmaps", namespace), "0")
    assert next(watch)[0] == "ADDED"

    calls = {(call.verb, call.resource, call.allowed, call.code) for call in plane.audit.calls(before, user)}
    assert calls == {("list", "secrets", False, 403), ("get", "configmaps", True, 404), ("watch", "configmaps", True, 200)}
    watch.close()

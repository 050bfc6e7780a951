"""What the charts render: accepted by lint, the same with Helm 3 and 4, valid objects, nothing twice, restricted pods."""

import base64
import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

import programs
from programs import CHART, CRDS_CHART, ROOT, SETS, identity, objects_of

# Groups whose schemas the validator brings along.
KUBERNETES = {"", "apps", "policy", "autoscaling", "networking.k8s.io", "rbac.authorization.k8s.io", "apiextensions.k8s.io"}
# Of other projects; their definitions are not here.
FOREIGN = {"monitoring.coreos.com", "gateway.networking.k8s.io"}


def definitions():
    """Our CRDs, by kind."""
    crds = [yaml.safe_load(path.read_text()) for path in (ROOT / "deploy/crds").glob("tollgate.dev_*.yaml")]
    return {crd["spec"]["names"]["kind"]: crd for crd in crds}


def strict(schema):
    """A schema that refuses fields that it does not name, as `kubectl apply` does."""
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: strict(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    if isinstance(schema.get("items"), dict):
        schema["items"] = strict(schema["items"])
    return schema


def validate_resource(one):
    """Holds an object of ours against its schema. Not the CEL rules: those are for an API server."""
    schema = definitions()[one["kind"]]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(one.get("spec", {}), strict(schema["properties"]["spec"]), cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize("values", SETS)
def test_lint_finds_nothing(helm, values):
    programs.run(programs.program(helm), "lint", "--strict", CHART, *programs.values_of(values))


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_lint_finds_nothing_in_the_definitions(helm):
    programs.run(programs.program(helm), "lint", "--strict", CRDS_CHART)


@pytest.mark.parametrize("values", SETS)
def test_helm_3_and_4_render_the_same(values):
    def rendered(helm):
        objects = {identity(one): one for one in objects_of(values, helm=helm)}
        # A generated key is another each time.
        for one in objects.values():
            if one["kind"] == "Secret":
                one["data"] = {name: "generated" for name in one["data"]}
        return objects

    assert rendered("helm") == rendered("helm3")


@pytest.mark.parametrize("values", SETS)
def test_no_object_is_rendered_twice(values):
    identities = [identity(one) for one in objects_of(values)]
    assert len(identities) == len(set(identities)), sorted(one for one in identities if identities.count(one) > 1)


@pytest.mark.parametrize("values", SETS)
def test_objects_are_valid(values):
    for one in objects_of(values):
        group = identity(one)[0]
        if group == "tollgate.dev":
            validate_resource(one)
        elif group in KUBERNETES:
            kubernetes_validate.validate(one, "1.36", strict=True)
        else:
            assert group in FOREIGN, identity(one)


@pytest.mark.parametrize("values", SETS)
def test_lists_with_keys_hold_no_key_twice(values):
    """Server-side apply, which Helm 4 does, refuses them."""

    def walk(node, path):
        if isinstance(node, dict):
            for name, value in node.items():
                walk(value, f"{path}.{name}")
        elif isinstance(node, list):
            names = [item["name"] for item in node if isinstance(item, dict) and "name" in item and "namespace" not in item]
            assert len(names) == len(set(names)), f"{path}: {names}"
            for at, item in enumerate(node):
                walk(item, f"{path}[{at}]")

    for one in objects_of(values):
        walk(one, "/".join(identity(one)))


def pods(values):
    """Name and pod spec of what runs."""
    for one in objects_of(values):
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["spec"]
        elif one["kind"] == "Deployment":
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", SETS)
def test_pods_are_restricted(values):
    """As the Pod Security Standard `restricted` says, and with a root that cannot be written."""
    found = dict(pods(values))
    assert len(found) == 2
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC")), name
        assert all("hostPath" not in volume for volume in pod.get("volumes", [])), name
        assert "automountServiceAccountToken" in pod, name
        # A Service named tollgate would set TOLLGATE_PORT.
        assert pod["enableServiceLinks"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= container["resources"].keys(), name


@pytest.mark.parametrize("values", SETS)
def test_every_object_says_what_it_belongs_to(values):
    for one in objects_of(values):
        if one["metadata"]["name"] in ("tollgate-extra", "text"):
            continue
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "tollgate", identity(one)
        assert labels["app.kubernetes.io/component"], identity(one)
        assert labels["app.kubernetes.io/managed-by"] == "Helm", identity(one)


def test_the_test_may_read_metrics_where_few_may():
    [rule, _] = find(objects_of("everything"), "NetworkPolicy", "tollgate-operator")["spec"]["ingress"]
    labels = find(objects_of("everything"), "Pod", "tollgate-test")["metadata"]["labels"]
    [selector] = [one["podSelector"]["matchLabels"] for one in rule["from"] if "podSelector" in one]
    assert selector.items() <= labels.items()


def find(objects, kind, name):
    [one] = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return one


def test_everything_is_handed_over():
    objects = objects_of("everything")
    deployment = find(objects, "Deployment", "tollgate-operator")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    digest = "sha256:41a6d46d7e19ce5627b21179a279d750ccc04505ea9cee606552e2acbb4e9148"
    assert container["image"] == f"registry.example/tollgate@{digest}"
    assert "--image=registry.example/tollgate:other" in container["args"]
    assert container["args"][-1] == "--kubeconfig=/etc/tollgate/kubeconfig"
    secrets = deployment["spec"]["template"]["spec"]["imagePullSecrets"]
    assert secrets == [{"name": "shared"}, {"name": "registry"}]

    gateway = find(objects, "LLMGateway", "internal")
    assert gateway["spec"]["masterKey"] == {"secretRef": {"name": "tollgate-master", "key": "key"}}
    assert gateway["spec"]["default"] is True
    # Not 2e+06.
    assert gateway["spec"]["defaults"]["maxOutputTokens"] == 2000000
    assert find(objects, "Secret", "tollgate-master")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    backend = find(objects, "Ingress", "tollgate-internal")["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    assert backend == {"service": {"name": "tollgate-internal", "port": {"number": 80}}}
    route = find(objects, "HTTPRoute", "tollgate-internal")["spec"]["rules"][0]
    assert route == {"backendRefs": [{"name": "tollgate-internal", "port": 80}], "timeouts": {"request": "0s"}}
    monitor = find(objects, "PodMonitor", "tollgate-proxies")
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["edge", "tollgate"]}
    assert find(objects, "ConfigMap", "text")["data"] == {"key": "tollgate"}
    dashboards = [one for one in objects if one["metadata"].get("labels", {}).get("grafana_dashboard")]
    assert len(dashboards) == 4


def test_an_existing_master_key_is_only_named():
    objects = objects_of(None, sets=("gateway.enabled=true", "gateway.masterKey.existingSecret=mine"))
    assert find(objects, "LLMGateway", "default")["spec"]["masterKey"] == {"secretRef": {"name": "mine", "key": "key"}}
    assert not [one for one in objects if one["kind"] == "Secret"]


def test_a_generated_master_key_is_strong():
    objects = objects_of(None, sets=("gateway.enabled=true",))
    key = base64.b64decode(find(objects, "Secret", "tollgate-master")["data"]["key"]).decode()
    assert key.startswith("sk-") and len(key) == 51


def test_the_namespaces_are_an_argument():
    deployment = find(objects_of("namespaced"), "Deployment", "tollgate-operator")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--namespaces=team-a,team-b,tollgate" in arguments
    everywhere = find(objects_of(None), "Deployment", "tollgate-operator")
    arguments = everywhere["spec"]["template"]["spec"]["containers"][0]["args"]
    assert not [one for one in arguments if one.startswith("--namespaces")]


@pytest.mark.parametrize("keep", [True, False])
def test_definitions_stay_when_they_should(keep):
    objects = objects_of(None, chart=CRDS_CHART, sets=(f"keep={str(keep).lower()}",))
    assert len(objects) == 7
    for one in objects:
        policy = one["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        assert policy == ("keep" if keep else None)


def test_definitions_of_the_chart_are_those_for_kubectl():
    """But for labels and annotations, also where Helm's templates would read braces."""
    for one in objects_of(None, chart=CRDS_CHART):
        expected = definitions()[one["spec"]["names"]["kind"]]
        assert json.dumps(one["spec"], sort_keys=True) == json.dumps(expected["spec"], sort_keys=True)
        assert one["metadata"]["name"] == expected["metadata"]["name"]


@pytest.mark.parametrize("enabled", [True, False])
def test_notes_hold_the_first_curl(enabled):
    command = [programs.program("helm"), "install", "tollgate", CHART, "--namespace", "llm", "--dry-run=client"]
    notes = programs.run(*command, "--set", f"gateway.enabled={str(enabled).lower()}").partition("NOTES:")[2]
    assert "curl http://127.0.0.1:4000/v1/chat/completions" in notes
    assert "kubectl -n llm port-forward svc/tollgate 4000:80" in notes
    assert notes.count("port-forward") == 1
    assert ("http://tollgate.llm.svc/v1" in notes) == enabled
    # Pasted into a shell, it applies what is right.
    snippet = re.search(r"^kubectl -n llm apply -f - <<END\n.*?^END\n", notes, re.MULTILINE | re.DOTALL).group()
    applied = list(yaml.safe_load_all(programs.run("bash", "-c", f"kubectl() {{ cat; }}\n{snippet}")))
    for one in applied:
        validate_resource(one)
    kinds = [one["kind"] for one in applied]
    assert kinds == ([] if enabled else ["LLMGateway"]) + ["ModelDeployment", "VirtualKey"]

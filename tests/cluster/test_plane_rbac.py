"""The chart's RBAC against a real API server: what operator and proxies do is allowed, and what is allowed they do."""

import secrets

import pytest
import yaml

from harness import programs
from harness.api import path
from harness.helm import Helm
from harness.objects import TOLLGATE, object_of, secret_ref, wait_for, where
from harness.operator import Operator
from harness.pki import Authority
from harness.proxy import Proxy

CHART = programs.REPOSITORY / "charts/tollgate"
CHILDREN = [
    ("apps/v1", "deployments"),
    ("v1", "services"),
    ("policy/v1", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "networkpolicies"),
    ("autoscaling/v2", "horizontalpodautoscalers"),
]


class Installed:
    """The chart in two namespaces: `home` of the release and its gateway, `team` with Secrets and a gateway `edge`."""

    def __init__(self, plane, home, team, everywhere):
        self.plane, self.home, self.team, self.everywhere = plane, home, team, everywhere
        self.helm = Helm(plane)
        values = {
            # Without nodes nothing runs them; the tests do.
            "replicas": 0,
            "watchNamespaces": [] if everywhere else [team],
            "gateways": [{"namespace": team, "names": ["edge"]}],
            "secrets": {
                "read": {"namespaces": [team]},
                "generate": {"namespaces": [team]},
            },
            "gateway": {"enabled": True, "spec": {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"llm": "yes"}}}}},
        }
        self.helm.run("install", "tollgate", CHART, "--namespace", home, "--values", "-", text=yaml.safe_dump(values))
        manifest = self.helm.run("get", "manifest", "tollgate", "--namespace", home)
        self.documents = [document for document in yaml.safe_load_all(manifest) if document]

    def remove(self):
        self.helm.run("uninstall", "tollgate", "--namespace", self.home)

    def grants(self, namespace, account):
        """What bindings of the release grant a ServiceAccount: by role, group, resource and verb, the names that it is for
        (none: all) and the namespaces (none: all)."""
        roles = {(each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")): each["rules"] for each in self.documents if each["kind"].endswith("Role")}
        grants = {}
        for binding in self.documents:
            subjects = binding.get("subjects", []) if binding["kind"].endswith("Binding") else []
            if {"kind": "ServiceAccount", "name": account, "namespace": namespace} not in subjects:
                continue
            at = binding["metadata"].get("namespace")
            reference = binding["roleRef"]
            rules = roles[reference["kind"], reference["name"], at if reference["kind"] == "Role" else None]
            for rule in rules:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            names = tuple(rule.get("resourceNames", ()))
                            grant = (reference["name"], group, resource, verb, bool(names))
                            grants.setdefault(grant, []).append((names, at))
        return grants


@pytest.fixture(params=["everywhere", "in_listed_namespaces"])
def installed(own_plane, crds, namespace, request):
    team = own_plane.make_namespace("team", {"llm": "yes"})
    installed = Installed(own_plane, namespace, team, request.param == "everywhere")
    yield installed
    installed.remove()
    own_plane.delete_namespace(team)


@pytest.fixture
def started():
    """What a test starts goes with it."""
    started = []
    yield started
    for each in reversed(started):
        each.stop()


def secret(name, **values):
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


def budget(name, **spec):
    return object_of("Budget", name, limit="10", period={"calendar": "Day"}, **spec)


def unused(grants, calls):
    """Grants that no call needed. Each role is one purpose: use in one of the namespaces it is bound in is enough."""
    def uses(call, grant, names, at):
        _, group, resource, verb, _ = grant
        what = f"{call.resource}/{call.subresource}".rstrip("/")
        # Server-side apply of what is not there wants `create` as well, and has only `patch` in the log.
        verbs = {call.verb, "create"} if (call.verb, call.code) == ("patch", 201) else {call.verb}
        return (
            (call.group, what) == (group, resource)
            and verb in verbs
            and (not names or call.name in names)
            and (at is None or call.namespace == at)
        )
    return [
        grant[:4] for grant, places in grants.items()
        if not any(uses(call, grant, names, at) for call in calls for names, at in places)
    ]


def scenario(plane, home, team, everywhere, started, tmp_path):
    """Everything that makes an operator or a proxy call the API server."""
    kubectl, api = plane.kubectl, plane.api
    gateway = {"name": "default", "namespace": home}
    edge = {"name": "edge"}

    # Of a gateway that had more tables than it will have, and one whose place is taken.
    kubectl.apply(object_of("LLMGateway", "edge"), namespace=team)
    uid = api.get(where(team, "LLMGateway", "edge"))["metadata"]["uid"]
    owner = {"apiVersion": TOLLGATE, "kind": "LLMGateway", "name": "edge", "uid": uid, "controller": True}
    old = {"name": "tollgate-edge-policy-7", "ownerReferences": [owner], "labels": {"tollgate.dev/tables": "policy", "tollgate.dev/gateway": "edge"}}
    kubectl.apply([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": old, "data": {"part": "old"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tollgate-edge-manifest"}, "data": {"mine": "yes"}},
    ], namespace=team)

    account = plane.make_service_account_kubeconfig(home, "tollgate-operator")
    operator = Operator(plane, f"operator-{home}", ["all"] if everywhere else sorted([home, team]), account, home=home)
    started.append(operator)
    operator.wait_until_it_leads()

    # Every kind, keys that are generated, references over namespaces and to labels.
    kubectl.apply([
        secret("openai", key="sk-one"),
        object_of("ProviderAccount", "account", provider="anthropic", credentials=[{"name": "a", **secret_ref("openai")}]),
        object_of("ModelDeployment", "gpt", provider="openai", model="gpt-4o", credential=secret_ref("openai"), gatewayRef=gateway, probe={"mode": "None"}),
        object_of("ModelDeployment", "claude", accountRef={"name": "account"}, model="claude-sonnet-4", gatewayRef=gateway, probe={"mode": "None"}),
        object_of("RouteGroup", "chat", targets=[{"name": "a", "modelDeploymentRef": {"name": "gpt"}}]),
        object_of("Team", "research"),
        budget("daily"),
        object_of("VirtualKey", "ci", models=["chat"], teamRef={"name": "research"}, secret={"name": "ci"}, gatewayRef=gateway),
        object_of("VirtualKey", "edge", models=["*"], secret={"name": "edge-key"}, gatewayRef=edge),
    ], namespace=team)
    wait_for(plane, team, "VirtualKey", "ci", Active=("True", "Active"), Programmed=("Unknown", "NoProxies"))
    wait_for(plane, team, "VirtualKey", "edge", Programmed=("False", "NameTaken"))
    api.delete(path("v1", "configmaps", team, "tollgate-edge-manifest"))
    wait_for(plane, team, "VirtualKey", "edge", Programmed=("Unknown", "NoProxies"))
    api.wait_until(path("v1", "configmaps", team, "tollgate-edge-policy-7"), lambda there: there is None)

    # A proxy in the place of a pod.
    address = f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}.2"
    proxy = Proxy(plane, f"proxy-{home}", f"{home}/default", plane.make_service_account_kubeconfig(home, "tollgate-proxy"), address)
    started.append(proxy)
    proxy.process.wait_until(proxy.is_ready)
    proxy.be_pod()
    wait_for(plane, team, "VirtualKey", "ci", Programmed=("True", "Programmed"), Ready=("True", "Ready"))

    # Secrets change, of providers and of a key.
    before = proxy.generation()
    api.merge(path("v1", "secrets", team, "openai"), {"stringData": {"key": "sk-two"}})
    proxy.process.wait_until(lambda: proxy.generation() > before)
    first = api.get(path("v1", "secrets", team, "ci"))["data"]["key"]
    kubectl.run("annotate", "virtualkey", "ci", "tollgate.dev/rotate=once", "--namespace", team)
    api.wait_until(path("v1", "secrets", team, "ci"), lambda there: there["data"]["key"] != first)
    # The same Event twice.
    for _ in range(2):
        api.merge(where(team, "VirtualKey", "ci"), {"spec": {"disabled": True}})
        wait_for(plane, team, "VirtualKey", "ci", Active=("False", "Disabled"))
        api.merge(where(team, "VirtualKey", "ci"), {"spec": {"disabled": False}})
        wait_for(plane, team, "VirtualKey", "ci", Active=("True", "Active"))
    api.delete(where(team, "VirtualKey", "ci"))
    api.wait_until(path("v1", "secrets", team, "ci"), lambda there: there is None)

    # TLS and autoscaling come and go.
    certificate, key = Authority(tmp_path / "pki").server("llm.example.com", ["llm.example.com"])
    kubectl.apply(secret("tls", **{"tls.crt": certificate.read_text(), "tls.key": key.read_text()}), namespace=home)
    listeners = [{"name": "http", "port": 4000}, {"name": "https", "port": 4443, "tls": {"certificateRef": {"name": "tls"}}}]
    for spec in [
        {"autoscaling": {"minReplicas": 2, "maxReplicas": 5}, "listeners": listeners},
        {"autoscaling": None, "replicas": 1, "listeners": listeners[:1]},
    ]:
        api.merge(where(home, "LLMGateway", "default"), {"spec": spec})
        scaled = bool(spec["autoscaling"])
        for version, kind in [CHILDREN[2], CHILDREN[4]]:
            api.wait_until(path(version, kind, home, "tollgate"), lambda there: bool(there) == scaled)
        api.wait_until(path("v1", "services", home, "tollgate"), lambda there: len(there["spec"]["ports"]) == (4 if scaled else 2))

    # A gateway goes, and all that was made for it.
    api.delete(where(team, "LLMGateway", "edge"))
    api.wait_until(path("apps/v1", "deployments", team, "tollgate-edge"), lambda there: there is None)
    # Events are written behind everything else.
    operator.process.wait_until(lambda: operator.metric("status_queue") == 0)
    operator.renewals(2)
    assert operator.stop() == 0


def test_all_that_is_done_is_allowed_and_all_that_is_allowed_is_done(own_plane, installed, started, tmp_path):
    home, team = installed.home, installed.team
    position = own_plane.audit.position()
    accounts = ["tollgate-operator", "tollgate-proxy"]
    calls = lambda account: own_plane.audit.calls(position, f"system:serviceaccount:{home}:{account}")
    try:
        scenario(own_plane, home, team, installed.everywhere, started, tmp_path)
    finally:
        # Other tests' namespaces are not prepared for an operator that looks everywhere.
        refused = {call for account in accounts for call in calls(account) if not call.allowed and call.namespace in ("", home, team)}
        assert not refused, refused
    for account in accounts:
        assert unused(installed.grants(home, account), [call for call in calls(account) if call.allowed]) == [], account

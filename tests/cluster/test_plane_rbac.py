"""The chart's RBAC against a real API server: what operator and proxies do is allowed, and what is allowed they do; what
each value of the chart grants, and to which people."""

import secrets
import subprocess

import pytest
import yaml

from harness import programs
from harness.api import path
from harness.helm import Helm
from harness.objects import TOLLGATE, object_of, secret_ref, wait_for, where
from harness.operator import Operator
from harness.pki import Authority
from harness.plane import Plane
from harness.proxy import Proxy

CHART = programs.REPOSITORY / "charts/tollgate"
CHILDREN = [
    ("apps/v1", "deployments"),
    ("v1", "services"),
    ("policy/v1", "poddisruptionbudgets"),
    ("networking.k8s.io/v1", "networkpolicies"),
    ("autoscaling/v2", "horizontalpodautoscalers"),
]


class Release:
    """The chart installed in `home` with these values."""

    def __init__(self, plane, home, values):
        self.home = home
        self.helm = Helm(plane)
        self.set(values)

    def set(self, values):
        """These values and no others; without nodes nothing runs the operator, the tests do."""
        text = yaml.safe_dump({"replicas": 0, **values})
        self.helm.run("upgrade", "--install", "tollgate", CHART, "--namespace", self.home, "--reset-values", "--values", "-", text=text)

    def documents(self):
        manifest = self.helm.run("get", "manifest", "tollgate", "--namespace", self.home)
        return [document for document in yaml.safe_load_all(manifest) if document]

    def remove(self):
        self.helm.run("uninstall", "tollgate", "--namespace", self.home)


class Installed:
    """The chart in two namespaces: `home` of the release and its gateway, `team` with Secrets and a gateway `edge`."""

    def __init__(self, plane, home, team, everywhere):
        self.plane, self.home, self.team, self.everywhere = plane, home, team, everywhere
        self.release = Release(plane, home, {
            "watchNamespaces": [] if everywhere else [team],
            "gateways": [{"namespace": team, "names": ["edge"]}],
            "secrets": {
                "read": {"namespaces": [team]},
                "generate": {"namespaces": [team]},
            },
            "gateway": {"enabled": True, "spec": {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"llm": "yes"}}}}},
        })
        self.documents = self.release.documents()

    def remove(self):
        self.release.remove()

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
    # And who asks what is missing hears that nothing is.
    check = [str(programs.gateway()), "check", "--cluster", "-n", home, "--operator", f"{home}/tollgate-operator"]
    done = subprocess.run(check, env={"KUBECONFIG": str(own_plane.kubeconfig)}, capture_output=True, text=True, timeout=60)
    assert own_plane.api.get(path(TOLLGATE, "llmgateways", home))["items"]
    assert done.returncode == 0 and "0 errors" in done.stderr, done.stdout + done.stderr
    for account in accounts:
        assert unused(installed.grants(home, account), [call for call in calls(account) if call.allowed]) == [], account


def may(plane, user, verb, resource, *, namespace, name="", group="", subresource=""):
    """What `kubectl auth can-i` asks, and the answer."""
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
    return plane.api.as_user(user).create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)["status"]["allowed"]


@pytest.fixture
def release(own_plane, crds, namespace):
    release = Release(own_plane, namespace, {})
    yield release
    release.remove()


@pytest.fixture
def other(own_plane):
    """A namespace that the release knows nothing of."""
    name = own_plane.make_namespace("other")
    yield name
    own_plane.delete_namespace(name)


# Values of the chart, and what the operator may then do to Secrets: in the release's namespace, in another one to the
# Secret `openai` and to the Secret `database`.
READ, WRITE, NONE = {"get", "watch"}, {"create", "get", "patch", "watch"}, set()
SECRETS = {
    "as_it_comes": ({}, WRITE, NONE, NONE),
    # Credentials of the gateway are made there.
    "nothing_here": ({"read": {"ownNamespace": False}, "generate": {"ownNamespace": False}}, {"create"}, NONE, NONE),
    "single_names": (lambda other: {"read": {"names": [{"namespace": other, "names": ["openai", "azure"]}]}}, WRITE, READ, NONE),
    "a_namespace": (lambda other: {"read": {"namespaces": [other]}}, WRITE, READ, READ),
    "a_namespace_of_keys": (lambda other: {"generate": {"namespaces": [other]}}, WRITE, WRITE, WRITE),
    "everywhere": ({"read": {"allNamespaces": True}}, WRITE, READ, READ),
    "keys_everywhere": ({"generate": {"allNamespaces": True}}, WRITE, WRITE, WRITE),
}


def test_values_grant_the_secrets_that_they_name_and_never_a_list(own_plane, release, other):
    operator = f"system:serviceaccount:{release.home}:tollgate-operator"
    verbs = ["get", "watch", "create", "patch", "update", "list", "delete"]
    granted = lambda namespace, name: {
        # Nobody can be allowed to create a name.
        verb for verb in verbs if may(own_plane, operator, verb, "secrets", namespace=namespace, name="" if verb == "create" else name)
    }
    seen, expected = {}, {}
    for case, (values, *grants) in SECRETS.items():
        release.set({"secrets": values(other) if callable(values) else values})
        seen[case] = [granted(release.home, "any"), granted(other, "openai"), granted(other, "database")]
        expected[case] = grants
        assert may(own_plane, operator, "get", "secrets", namespace="kube-system") == ("everywhere" in case), case
    assert seen == expected


def test_an_operator_reads_a_secret_that_is_named_and_no_other(own_plane, release, other, started):
    own_plane.kubectl.apply([
        object_of("LLMGateway", "edge"),
        secret("openai", key="sk-one"),
        secret("database", key="not for you"),
        object_of("ModelDeployment", "allowed", provider="openai", model="gpt-4o", credential=secret_ref("openai")),
        object_of("ModelDeployment", "refused", provider="openai", model="gpt-4o", credential=secret_ref("database")),
    ], namespace=other)
    release.set({"gateways": [{"namespace": other, "names": ["edge"]}], "secrets": {"read": {"names": [{"namespace": other, "names": ["openai"]}]}}})
    account = own_plane.make_service_account_kubeconfig(release.home, "tollgate-operator")
    position = own_plane.audit.position()
    started.append(Operator(own_plane, f"operator-{release.home}", ["all"], account, home=release.home))
    wait_for(own_plane, other, "ModelDeployment", "allowed", ResolvedRefs=("True", "ResolvedRefs"))
    wait_for(own_plane, other, "ModelDeployment", "refused", ResolvedRefs=("False", "SecretForbidden"))
    calls = own_plane.audit.calls(position, f"system:serviceaccount:{release.home}:tollgate-operator")
    asked = {(call.name, call.allowed) for call in calls if call.resource == "secrets" and call.namespace == other and "credentials" not in call.name}
    assert asked == {("openai", True), ("database", False)}


# What a person of a role of the cluster may do to resources, in the namespace where it is bound.
TENANTS = ["provideraccounts", "modeldeployments", "routegroups", "teams", "virtualkeys", "budgets"]
PEOPLE = {
    "view": {"reads": ["llmgateways", *TENANTS], "writes": []},
    "edit": {"reads": ["llmgateways", *TENANTS], "writes": TENANTS},
    "admin": {"reads": ["llmgateways", *TENANTS], "writes": TENANTS},
}


def test_roles_of_the_cluster_are_those_of_people_who_use_tollgate(own_plane, release, other):
    for role in PEOPLE:
        own_plane.kubectl.run("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}", "--namespace", other)
    # A controller puts the roles together.
    role_of_cluster = lambda role: path("rbac.authorization.k8s.io/v1", "clusterroles", None, role)
    has = lambda there: any("tollgate.dev" in rule.get("apiGroups", []) for rule in there["rules"])
    for role in PEOPLE:
        own_plane.api.wait_until(role_of_cluster(role), has)
    asks = lambda user, verb, kind, **more: may(own_plane, user, verb, kind, group="tollgate.dev", **{"namespace": other, **more})
    for role, expected in PEOPLE.items():
        for verbs, kinds in [(["get", "list", "watch"], expected["reads"]), (["create", "update", "patch", "delete"], expected["writes"])]:
            for verb in verbs:
                assert [kind for kind in ["llmgateways", *TENANTS] if asks(role, verb, kind)] == kinds, (role, verb)
        # Neither statuses, which are the operator's, nor anything in a namespace where they are nobody.
        assert not asks(role, "patch", "virtualkeys", subresource="status"), role
        assert not asks(role, "get", "virtualkeys", namespace=release.home), role
    scale = lambda: [role for role in PEOPLE if asks(role, "patch", "llmgateways", subresource="scale")]
    assert scale() == []

    # Gateways are the platform's, unless it says otherwise.
    release.set({"rbac": {"gatewaysForAdmins": True}})
    writes = lambda there: any("llmgateways" in rule["resources"] and "create" in rule["verbs"] for rule in there["rules"])
    own_plane.api.wait_until(role_of_cluster("admin"), writes)
    assert [role for role in PEOPLE if asks(role, "create", "llmgateways")] == scale() == ["admin"]

    release.set({"rbac": {"aggregatedRoles": False}})
    for role in PEOPLE:
        own_plane.api.wait_until(role_of_cluster(role), lambda there: not has(there))
    assert not asks("edit", "create", "virtualkeys")


def test_where_owners_are_guarded_the_chart_can_let_the_operator_own(run_folder, started):
    """With the admission plugin that OpenShift turns on, who makes an object that blocks the deletion of its owner must be
    allowed to."""
    folder = run_folder.path / "guarded-plane"
    folder.mkdir()
    plane = Plane(folder, flags=["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"])
    try:
        plane.install_crds()
        home = plane.make_namespace("guarded")
        release = Release(plane, home, {"gateway": {"enabled": True}})
        account = plane.make_service_account_kubeconfig(home, "tollgate-operator")
        operator = Operator(plane, f"operator-{home}", ["all"], account, home=home)
        started.append(operator)
        wait_for(plane, home, "LLMGateway", "default", Programmed=("False", "Forbidden"))
        release.set({"gateway": {"enabled": True}, "rbac": {"ownerFinalizers": True}})
        wait_for(plane, home, "LLMGateway", "default", Programmed=("Unknown", "NoProxies"))
        plane.kubectl.apply(object_of("VirtualKey", "ci", models=["*"], secret={"name": "ci"}), namespace=home)
        plane.api.wait_until(path("v1", "secrets", home, "ci"), bool)
        operator.stop()
    finally:
        plane.stop()

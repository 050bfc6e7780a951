"""The command line looks at a real API server: what it finds, what it may not see, and what it says to do about it."""

import os
import pathlib
import re
import shlex
import subprocess

import pytest
import yaml

from harness import programs

TOLLGATE = "tollgate.dev/v1alpha1"
REPOSITORY = programs.REPOSITORY
LITELLM = REPOSITORY / "import/tests/configs/full.yaml"


def document(kind, name, api_version=TOLLGATE, **more):
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **more.pop("metadata", {})}, **more}


def secret(name, **values):
    return document("Secret", name, "v1", stringData=values)


def deployment(name, secret="openai", **more):
    credential = {"secretRef": {"name": secret, "key": "api-key"}}
    return document("ModelDeployment", name, spec={"provider": "openai", "model": "gpt-4o", "credential": credential, **more})


def key(name, **spec):
    return document("VirtualKey", name, spec={"keyHash": "sha256:" + "1a" * 32, **spec})


def tollgate(*arguments, kubeconfig=None, env=None):
    environment = {**os.environ, "TOLLGATE_LOG": "warn", **(env or {})}
    environment.pop("KUBECONFIG", None)
    given = ["--kubeconfig", str(kubeconfig)] if kubeconfig else []
    command = [str(programs.gateway()), *arguments, *given]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def check(plane, crds, namespace):
    """`check` of the namespace; its lines, without what the absence of an operator makes it say."""

    def run(*arguments, kubeconfig=plane.kubeconfig, code=0):
        done = tollgate("check", "-n", namespace, *arguments, kubeconfig=kubeconfig)
        assert done.returncode == code, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if not line.endswith(("[NotObserved]", "[OperatorNotFound]"))]

    return run


@pytest.fixture
def model(plane, crds, namespace):
    """A model and a key for it in the namespace, and a gateway that takes them."""
    account = document("ServiceAccount", "tollgate-proxy", "v1")
    role = document(
        "Role",
        "tollgate-proxy",
        "rbac.authorization.k8s.io/v1",
        rules=[
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["tollgate-cli-credentials-0"], "verbs": ["get", "watch"]},
        ],
    )
    binding = bind("tollgate-proxy", "Role", "tollgate-proxy", {"kind": "ServiceAccount", "name": "tollgate-proxy", "namespace": namespace})
    gateway = document("LLMGateway", "cli", spec={})
    reference = {"gatewayRef": {"name": "cli"}}
    objects = [account, role, binding, gateway, secret("openai", **{"api-key": "sk-0123456789"}), deployment("gpt-4o", **reference)]
    plane.kubectl.apply([*objects, key("ci", models=["gpt-4o"], **reference)], namespace=namespace)


def bind(name, kind, role, *subjects):
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
    return document("RoleBinding", name, "rbac.authorization.k8s.io/v1", roleRef=reference, subjects=list(subjects))


def as_user(plane, user, path):
    """A kubeconfig with which the administrator is `user`."""
    config = yaml.safe_load(pathlib.Path(plane.kubeconfig).read_text())
    for each in config["users"]:
        each["user"]["as"] = user
    path.write_text(yaml.safe_dump(config))
    return path


def test_what_works_has_no_findings(check, model):
    assert check() == []


def test_a_finding_names_object_field_and_reason_and_makes_the_exit_code(plane, namespace, check, model):
    plane.kubectl.apply(deployment("broken", secret="gone", gatewayRef={"name": "cli"}), namespace=namespace)
    lines = check(code=1)
    assert lines == [
        f"error: ModelDeployment {namespace}/broken: spec.credential.secretRef: "
        f"Secret `gone` does not exist in namespace `{namespace}` [NotFound]"
    ]


def test_files_count_as_applied_and_nothing_is_written(plane, namespace, check, model, tmp_path):
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(deployment("new", secret="gone", gatewayRef={"name": "cli"})))
    lines = check(str(tmp_path), code=1)
    assert len(lines) == 1 and lines[0].startswith("new.yaml:"), lines
    assert "Secret `gone` does not exist" in lines[0]
    names = [each["metadata"]["name"] for each in plane.kubectl.get_json("modeldeployments.tollgate.dev", namespace=namespace)]
    assert names == ["gpt-4o"]


def test_a_user_of_one_namespace_is_told_what_may_not_be_read(plane, namespace, check, model, tmp_path):
    user = f"reader-{namespace}"
    resources = ["llmgateways", "provideraccounts", "modeldeployments", "routegroups", "teams", "virtualkeys", "budgets"]
    rules = [{"apiGroups": ["tollgate.dev"], "resources": resources, "verbs": ["get", "list"]}]
    role = document("Role", "reader", "rbac.authorization.k8s.io/v1", rules=rules)
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    plane.kubectl.apply([role, bind("reader", "Role", "reader", subject)], namespace=namespace)
    lines = check(kubeconfig=as_user(plane, user, tmp_path / "reader"))
    assert lines == [
        f"warning: Secret {namespace}/openai: you may not read it; taken to have `api-key`, "
        f"for ModelDeployment {namespace}/gpt-4o [NotReadable]"
    ]


def test_a_missing_binding_is_told_with_the_command_that_makes_it(plane, namespace, check, model):
    plane.kubectl.create(document("ServiceAccount", "llm-operator", "v1"), namespace=namespace)
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch"]}]
    plane.kubectl.apply(document("ClusterRole", f"{namespace}-llm-secret-reader", "rbac.authorization.k8s.io/v1", rules=rules))
    try:
        operator = ("--operator", f"{namespace}/llm-operator")
        of_secret = [line for line in check(*operator, code=1) if "secrets `openai`" in line]
        assert len(of_secret) == 1 and of_secret[0].endswith("[BindingMissing]"), of_secret
        command = shlex.split(re.search(r"\(kubectl (.*)\) \[", of_secret[0])[1])
        plane.kubectl.run(*command)
        assert [line for line in check(*operator, code=1) if "secrets `openai`" in line] == []
    finally:
        plane.kubectl.delete("clusterrole", f"{namespace}-llm-secret-reader")


def test_an_unprepared_namespace_is_an_error(plane, namespace, check, model):
    plane.kubectl.delete("serviceaccount", "tollgate-proxy", namespace=namespace)
    lines = check(code=1)
    assert len(lines) == 1 and lines[0].endswith("[NamespaceNotPrepared]"), lines


def test_explain_says_where_a_call_goes(plane, namespace, check, model):
    done = tollgate("explain", "gpt-4o", "--key", "ci", "-n", namespace, kubeconfig=plane.kubeconfig)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"key:    {namespace}/ci" in done.stdout
    assert f"{namespace}/gpt-4o 100% → openai gpt-4o at api.openai.com:443" in done.stdout
    done = tollgate("explain", "other", "--key", "ci", "-n", namespace, kubeconfig=plane.kubeconfig)
    assert done.returncode == 1 and "refused" in done.stdout, done.stdout


def test_an_import_applies_as_it_is_printed(plane, crds, namespace):
    variables = {"OPENAI_API_KEY": "sk-one", "AZURE_API_KEY": "two", "ANTHROPIC_API_KEY": "three"}
    done = tollgate("import", str(LITELLM), "--fill", "-n", namespace, env=variables)
    # What the file has wrong in itself.
    errors = [line for line in done.stderr.splitlines() if ": error: " in line]
    wrong = ["litellm_settings.priority_reservation.odd", "router_settings.model_group_alias.lost", "include[0]"]
    assert [error.split(": ")[2] for error in errors] == wrong, done.stderr
    assert "${" not in done.stdout
    said = plane.kubectl.apply(done.stdout, "--validate=strict", "--warnings-as-errors")
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert said.count(" created") == len(documents) > 10, said
    # Of `stringData` kubectl cannot tell that it changes nothing.
    again = [line for line in plane.kubectl.apply(done.stdout).splitlines() if not line.startswith("secret/")]
    assert again and all(line.endswith(" unchanged") for line in again), again
    azure = plane.kubectl.get_json("secret", "azure-api-key", namespace=namespace)
    assert azure["metadata"]["annotations"]["tollgate.dev/hosts"] == "example.openai.azure.com"
    checked = tollgate("check", "-n", namespace, "--gateway", f"{namespace}/default", kubeconfig=plane.kubeconfig)
    errors = [line for line in checked.stdout.splitlines() if line.startswith("error: ")]
    # The proxies' account is not there, and the mock has no address in a cluster.
    assert all("NamespaceNotPrepared" in line or "BindingMissing" in line or "/fake: " in line for line in errors), errors
    plane.kubectl.delete("llmgateway", "default", namespace=namespace)

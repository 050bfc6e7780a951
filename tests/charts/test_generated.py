"""What is made from code and charts is up to date, and all ways to install come to the same."""

import os
import subprocess

import jsonschema
import lupa
import pytest
import yaml

import programs
from programs import ROOT, identity, objects_of, run
from test_render import definitions, validate_resource


def environment():
    return {**os.environ, "HELM": str(programs.program("helm")), "TOLLGATE_BIN": str(programs.tollgate())}


def test_nothing_is_out_of_date():
    run(ROOT / "deploy/generate", "--check", env=environment())


def read(text):
    return [one for one in yaml.load_all(text, programs.UniqueKeys) if one]


def without_helm(objects):
    """Objects by identity, without what only a release has."""
    for one in objects:
        labels = one["metadata"].get("labels", {})
        for holder in (labels, one.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})):
            holder.pop("helm.sh/chart", None)
            holder.pop("app.kubernetes.io/managed-by", None)
    return {identity(one): one for one in objects if "helm.sh/hook" not in one["metadata"].get("annotations", {})}


def kustomized(overlay):
    return {identity(one): one for one in read(run(programs.program("kubectl"), "kustomize", ROOT / "deploy" / overlay))}


def test_install_yaml_is_the_chart_with_its_definitions_and_namespace():
    flat = {identity(one): one for one in read((ROOT / "deploy/install.yaml").read_text())}
    [namespace] = [one for one in flat.values() if one["kind"] == "Namespace"]
    crds = {one: flat[one] for one in flat if one[1] == "CustomResourceDefinition"}
    assert len(crds) == 7
    rest = {one: flat[one] for one in flat if one not in crds and one != identity(namespace)}
    assert rest == without_helm(objects_of(None))


def test_the_overlay_for_the_cluster_is_install_yaml():
    flat = {identity(one): one for one in read((ROOT / "deploy/install.yaml").read_text())}
    assert kustomized("overlays/cluster") == flat


def test_the_overlay_for_a_namespace_is_the_chart_with_this_namespace():
    assert kustomized("overlays/namespaced") == without_helm(objects_of(None, sets=("watchNamespaces={tollgate}", "rbac.namespaceLabels=false")))


def samples():
    return [(path.name, one) for path in sorted((ROOT / "deploy/samples").glob("*.yaml")) for one in read(path.read_text())]


def test_samples_show_every_kind_and_are_right():
    kinds = set()
    for name, one in samples():
        if one["apiVersion"] == "tollgate.dev/v1alpha1":
            kinds.add(one["kind"])
            try:
                validate_resource(one)
            except jsonschema.ValidationError as error:
                raise AssertionError(f"{name}: {one['kind']} {one['metadata']['name']}: {error.message}") from None
    assert kinds == set(definitions())


def test_samples_compile_together():
    done = subprocess.run([programs.tollgate(), "check", ROOT / "deploy/samples"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "Progressing"),
        ({}, "Progressing"),
        ({"conditions": [{"type": "Accepted", "status": "False", "observedGeneration": 3}]}, "Progressing"),
        ({"conditions": [{"type": "Ready", "status": "Unknown", "observedGeneration": 3}]}, "Progressing"),
        ({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 2}]}, "Progressing"),
        ({"conditions": [{"type": "Ready", "status": "False", "observedGeneration": 2}]}, "Progressing"),
        ({"conditions": [{"type": "Ready", "status": "True", "observedGeneration": 3, "message": "it works"}]}, "Healthy"),
        ({"conditions": [{"type": "Ready", "status": "False", "observedGeneration": 3, "message": "no key"}]}, "Degraded"),
    ],
)
def test_argo_cd_reads_conditions(status, expected):
    config = yaml.safe_load((ROOT / "deploy/argocd/health.yaml").read_text())["data"]
    assert set(config) == {f"resource.customizations.health.tollgate.dev_{kind}" for kind in definitions()}
    for script in config.values():
        lua = lupa.LuaRuntime()
        lua.globals().obj = lua.table_from({"metadata": {"generation": 3}, "status": status}, recursive=True)
        health = lua.execute(script)
        assert health["status"] == expected
        if expected in ("Healthy", "Degraded"):
            assert health["message"] == status["conditions"][0]["message"]


def test_compose_runs_the_gateway_of_its_files():
    folder = ROOT / "deploy/compose"
    compose = yaml.safe_load((folder / "docker-compose.yaml").read_text())
    gateway = compose["services"]["gateway"]
    assert gateway["read_only"] is True and gateway["cap_drop"] == ["ALL"]
    assert (folder / gateway["build"]["context"] / gateway["build"]["dockerfile"]).exists()
    # The health check and the command are ones that the binary has.
    assert gateway["healthcheck"]["test"][:3] == ["CMD", "/tollgate", "ready"]
    assert gateway["command"] == ["serve", "--config", "/etc/tollgate"]
    variables = {"OPENAI_API_KEY": "sk-1", "POSTGRES_URL": "postgres://tollgate:sk-2@postgres/tollgate"}
    done = subprocess.run(
        [programs.tollgate(), "check", folder / "config"], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_charts_have_the_version_of_the_binary():
    version = run(programs.tollgate(), "--version").split()[1]
    for chart in (programs.CHART, programs.CRDS_CHART):
        described = yaml.safe_load((chart / "Chart.yaml").read_text())
        assert (described["version"], described["appVersion"]) == (version, version)

"""The values: every key is documented and in the schema, and what is wrong is refused before anything is applied."""

import json
import re
import subprocess

import pytest
import yaml

import programs
from programs import CHART, CRDS_CHART


def keys(values, path=()):
    """Paths of everything that is written in a values file."""
    for name, value in values.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from keys(value, (*path, name))


def documented(chart):
    """Keys with a comment, as the README's table lists them."""
    readme = (chart / "README.md").read_text()
    return {tuple(key.split(".")) for key in re.findall(r"^\| `([A-Za-z.]+)` \|", readme, re.MULTILINE)}


def schema_of(schema, path):
    """The schema of a path; `None` when a schema that refuses unknown keys does not know it."""
    for name in path:
        if name in schema.get("properties", {}):
            schema = schema["properties"][name]
        elif schema.get("additionalProperties") is False:
            return None
        else:
            return {}
    return schema


@pytest.mark.parametrize("chart", [CHART, CRDS_CHART], ids=lambda chart: chart.name)
def test_every_key_is_documented(chart):
    known = documented(chart)
    written = list(keys(yaml.safe_load((chart / "values.yaml").read_text())))
    for path in written:
        is_group = any(other[: len(path)] == path for other in known)
        is_part = any(path[: len(other)] == other for other in known)
        assert is_group or is_part, ".".join(path)
    assert known <= set(written)


@pytest.mark.parametrize("chart", [CHART, CRDS_CHART], ids=lambda chart: chart.name)
def test_schema_and_values_name_the_same_keys(chart):
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    for path in keys(values):
        assert schema_of(schema, path) is not None, ".".join(path)

    def walk(schema, values, path):
        for name, inside in schema.get("properties", {}).items():
            where = f"{path}.{name}"
            # Keys of Kubernetes' own objects are not all written out.
            if path == ".resources":
                continue
            assert name in values, f"{where} is in the schema only"
            if isinstance(values[name], dict):
                walk(inside, values[name], where)

    walk(schema, values, "")


@pytest.mark.parametrize("helm", ["helm", "helm3"])
@pytest.mark.parametrize(
    "wrong",
    [
        "replica=2",
        "image.tagg=x",
        "image.digest=sha256:short",
        "replicas=many",
        "replicas=-1",
        "log.format=xml",
        "gateway.name=Default",
        # Its Deployment would be the operator's.
        "gateway.name=operator",
        "gateways[0].namespace=edge",
        "secrets.read.namespace=team-a",
        "secrets.read.namespaces={Team_A}",
        "networkPolicy.apiServerPorts[0]=70000",
        "metrics.podMonitor.interval=often",
        "watchNamespaces=team-a",
    ],
)
def test_schema_refuses(helm, wrong):
    assert "values don't meet the specifications" in refusal(helm, "--set", wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["leaderElection=false"], "replicas above 1 need leaderElection"),
        (["extraEnv[0].name=POD_NAME"], "POD_NAME is set twice"),
        (["extraEnv[0].name=A", "extraEnv[1].name=A"], "A is set twice"),
        (["watchNamespaces={a}", "secrets.read.allNamespaces=true"], "not with watchNamespaces"),
        (["watchNamespaces={a}", "secrets.generate.allNamespaces=true"], "not with watchNamespaces"),
        (["watchNamespaces={a}", "gateways[0].namespace=b", "gateways[0].names={g}"], "b is not among watchNamespaces"),
        (["gateways[0].namespace=default", "gateways[0].names={operator}"], "one named operator"),
        (["ingress.enabled=true"], "name at least one host"),
        (["httpRoute.enabled=true"], "name at least one Gateway"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    assert message in refusal("helm", *(part for one in settings for part in ("--set", one)))


def refusal(helm, *arguments):
    command = [programs.program(helm), "template", "t", CHART, "--kube-version", programs.KUBERNETES, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode != 0, "it was taken"
    return done.stderr

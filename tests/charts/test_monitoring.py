"""Alerts fire when they should, and alerts and dashboards name only metrics that exist."""

import json
import os
import re
import signal
import subprocess
import urllib.request

import pytest
import yaml

import programs
from programs import CHART, ROOT, SUITE, objects_of, run

START_SECONDS = 30
ALERTS = CHART / "files/alerts.yaml"
DASHBOARDS = sorted((CHART / "files/dashboards").glob("*.json"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """The address of a gateway with the built-in demo."""
    folder = tmp_path_factory.mktemp("gateway")
    log = folder / "log"
    with open(log, "wb") as errors:
        child = subprocess.Popen(
            [programs.tollgate(), "serve", "--port", "0", "--data", folder / "data"],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")},
            text=True,
        )
    try:
        # Its first line says where it listens; the end of the output, that it failed.
        line = child.stdout.readline()
        found = re.search(r"at (http://\S+)", line)
        assert found, f"{line}\n{log.read_text()}"
        yield found.group(1)
    finally:
        child.send_signal(signal.SIGTERM)
        child.stdout.close()
        child.wait(START_SECONDS)


@pytest.fixture(scope="module")
def metrics(gateway):
    """Names of all that a proxy exposes."""
    with urllib.request.urlopen(f"{gateway}/metrics") as answer:
        text = answer.read().decode()
    names = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    assert len(names) > 50
    return names | operator_metrics()


def operator_metrics():
    """What the operator registers; running one needs an API server."""
    source = (ROOT / "operator/src/metrics.rs").read_text()
    names = set()
    for unit, name in re.findall(r'registry\.register(_with_unit)?\(\s*"(\w+)"', source):
        name = f"tollgate_operator_{name}"
        names |= {f"{name}_seconds_bucket"} if unit else {name, f"{name}_total"}
    assert len(names) > 10
    return names


def test_promtool_takes_the_rules_and_the_alerts_fire():
    """rules_test.yaml holds series and what they must come to."""
    run(programs.promtool(), "check", "rules", ALERTS)
    run(programs.promtool(), "test", "rules", SUITE / "alerts/rules_test.yaml")


def expressions():
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.name}: ${variable['name']}", variable["query"]["query"]


def test_only_metrics_that_exist_are_asked_for(metrics):
    seen = set()
    for where, expression in expressions():
        # Names of labels begin like metrics of ours.
        for name in set(re.findall(r"\b(?:tollgate|litellm)_[a-z_]+\b", expression)) - {"tollgate_dev_gateway"}:
            assert name in metrics, f"{where} asks for {name}"
            seen.add(name)
    assert len(seen) > 25


def test_expressions_of_dashboards_are_well_formed(tmp_path):
    """Held against Prometheus' own parser, as rules; variables stand for what Grafana puts there."""
    rules = []
    for where, expression in expressions():
        if expression.startswith("label_values"):
            continue
        for name, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$gateway", ".*"), ("$model", ".*"), ("$team", ".*")):
            expression = expression.replace(name, value)
        assert "$" not in expression, f"{where}: {expression}"
        rules.append({"record": f"panel:{len(rules)}", "expr": expression})
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run(programs.promtool(), "check", "rules", path)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_name_no_data_source_of_somebody(path):
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == f"tollgate-{path.stem}"
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(identities) == len(set(identities))

    def walk(node):
        if isinstance(node, dict):
            if "datasource" in node:
                assert node["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(dashboard)


def test_the_chart_hands_out_the_files_as_they_are():
    objects = objects_of("everything")
    [rule] = [one for one in objects if one["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    for path in DASHBOARDS:
        name = f"tollgate-dashboard-{path.stem}"
        [one] = [one for one in objects if one["metadata"]["name"] == name]
        assert json.loads(one["data"][f"tollgate-{path.name}"]) == json.loads(path.read_text())


def ready(url, **variables):
    return subprocess.run([programs.tollgate(), "ready", url], capture_output=True, text=True, env={**os.environ, **variables})


def test_ready_says_by_its_exit_code(gateway):
    """What `helm test` and health checks of containers run."""
    assert ready(f"{gateway}/readyz").returncode == 0
    refused = ready(f"{gateway}/v1/models", TOLLGATE_KEY="sk-wrong")
    assert refused.returncode == 1 and "401" in refused.stderr
    assert "sk-wrong" not in refused.stderr
    # Nobody listens at the port of `discard`.
    nobody = ready("http://127.0.0.1:9/readyz")
    assert nobody.returncode == 1 and "cannot connect" in nobody.stderr
    assert ready("ftp://127.0.0.1/").returncode == 2

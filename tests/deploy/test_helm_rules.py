"""The chart's rules, its scaling and its dashboard ask for metrics that there are."""

import json
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from lookonce_server.metrics import Metrics

from ..support.helm_chart import CHART, EXAMPLES, KEYS, REDIS, VALUES, Release, merged
from ..support.snippets import ROOT

METRIC = r"(?:\b\w+:)?\blookonce_\w+(?::\w+)?"  # or one that a rule records
RULES = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
PAGE = ROOT / "docs" / "kubernetes.md"
PROMTOOL = os.environ.get("LOOKONCE_TEST_PROMTOOL") or shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="Prometheus is not installed")


def rules() -> dict:
    return Release(EXAMPLES["keda"]).at("PrometheusRule:spec")


def expressions() -> list[str]:
    """Return every query of the chart."""
    recorded = [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    scaling = [t["metadata"]["query"] for t in Release(EXAMPLES["keda"]).at("ScaledObject:spec:triggers")]
    boards = [json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")]
    panels = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    assert recorded
    assert scaling
    assert panels
    return [*recorded, *scaling, *panels]


def metric_names() -> set[str]:
    """Return the names of what the server shows and the rules record."""
    names = {rule["record"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule}
    for family in Metrics(tenants=[]).registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
        names |= {family.name + end for end in ends.get(family.type, [""])}
    return names


def test_each_query_asks_for_metrics_of_the_server():
    names = metric_names()
    for expression in expressions():
        asked = set(re.findall(METRIC, expression))
        assert asked or "vllm:" in expression
        assert asked <= names, expression


def test_an_autoscaler_asks_for_what_is_a_metric_or_recorded():
    metrics = Release(
        merged(KEYS, {**REDIS, "autoscaling": {"kind": "HorizontalPodAutoscaler"}, "prometheusRule": {"enabled": True}})
    ).at("HorizontalPodAutoscaler:spec:metrics")
    names = [metric["pods"]["metric"]["name"] for metric in metrics]
    assert names == [rule["record"] for rule in rules()["groups"][0]["rules"][:2]]


def test_the_endpoint_pickers_gauges_are_those_of_the_engines():
    specs = re.findall(r"(\w+Spec): (\S+)", PAGE.read_text())
    assert {name for name, _ in specs} == {"queuedRequestsSpec", "runningRequestsSpec"}
    gauges = {family.name for family in Metrics().registry.collect() if family.type == "gauge"}
    assert {metric for _, metric in specs} <= gauges
    source = Path(find_spec("vllm").submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text()
    named = set(re.findall(r"`(vllm:\w+)`", PAGE.read_text()))
    assert len(named) == 3
    assert all(f'name="{name}"' in source for name in named)


def test_the_charts_rules_are_those_of_the_one_file():
    values = {"prometheusRule": {**VALUES["prometheusRule"], "enabled": True}}
    made = json.dumps(Release(merged(KEYS, values)).at("PrometheusRule:spec"))
    job, series = (
        json.dumps(labels)[1:-1] for labels in ('job="lookonce"', 'namespace="ai",service="vision-lookonce"')
    )
    assert job not in made
    file = json.dumps(yaml.safe_load((RULES / "rules.yaml").read_text()))
    assert made.replace(series, job) == file
    numbers = set(re.findall(r"# (\w+)", file))
    assert numbers == VALUES["prometheusRule"].keys() - {"enabled", "labels"}


def test_each_alert_has_its_runbook_and_each_runbook_its_alert():
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == ALERTS.keys() | {"README"}
    names = metric_names() | {family.name for family in Metrics().registry.collect()}
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
        page = (RUNBOOKS / f"{name}.md").read_text()
        assert page.startswith(f"# {name}\n")
        assert re.findall("^## (.*)$", page, re.M) == ["What it means", "What to look at", "What to do"]
        assert name in (RUNBOOKS / "README.md").read_text()
        assert set(re.findall(METRIC, page)) <= names, name


def test_each_alert_is_tried():
    tests = (RULES / "rules_test.yaml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', tests)) == ALERTS.keys()


@needs_promtool
def test_each_alert_fires_on_its_fault_and_on_nothing_else():
    promtool("check", "rules", RULES / "rules.yaml")
    promtool("test", "rules", RULES / "rules_test.yaml")


@needs_promtool
def test_promtool_takes_the_rules_and_queries(tmp_path):
    queries = [query.replace("$__rate_interval", "5m") for query in expressions()]
    extra = {"name": "queries", "rules": [{"record": f"query{i}", "expr": query} for i, query in enumerate(queries)]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [*rules()["groups"], extra]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


def promtool(*arguments: object) -> None:
    done = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

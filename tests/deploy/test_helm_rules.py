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

from ..support.helm_chart import CHART, EXAMPLES, KEYS, REDIS, Release, merged
from ..support.snippets import ROOT

SERIES = 'namespace="ai",service="vision-lookonce",pod="p"'
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


def test_each_query_asks_for_metrics_of_the_server():
    names = set()
    for family in Metrics().registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + end for end in ends}
    for expression in expressions():
        asked = set(re.findall(r"\blookonce_\w+", expression))
        assert asked
        assert asked <= names, expression


def test_an_autoscaler_asks_for_what_is_a_metric_or_recorded():
    metrics = Release(
        merged(KEYS, {**REDIS, "autoscaling": {"kind": "HorizontalPodAutoscaler"}, "prometheusRule": {"enabled": True}})
    ).at("HorizontalPodAutoscaler:spec:metrics")
    queue, first_token = (metric["pods"]["metric"]["name"] for metric in metrics)
    assert queue in {family.name for family in Metrics().registry.collect()}
    assert first_token == rules()["groups"][0]["rules"][0]["record"]


def test_the_endpoint_pickers_gauges_are_those_of_the_engines():
    specs = re.findall(r"(\w+Spec): (\S+)", PAGE.read_text())
    assert {name for name, _ in specs} == {"queuedRequestsSpec"}
    gauges = {family.name for family in Metrics().registry.collect() if family.type == "gauge"}
    assert {metric for _, metric in specs} <= gauges
    source = Path(find_spec("vllm").submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text()
    named = set(re.findall(r"`(vllm:\w+)`", PAGE.read_text()))
    assert len(named) == 3
    assert all(f'name="{name}"' in source for name in named)


@needs_promtool
def test_promtool_takes_the_rules_and_queries(tmp_path):
    queries = [query.replace("$service", "x") for query in expressions()]
    extra = {"name": "queries", "rules": [{"record": f"query{i}", "expr": query} for i, query in enumerate(queries)]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [*rules()["groups"], extra]}))
    promtool("check", "rules", tmp_path / "rules.yaml")


BROKEN = {
    'requests_total{status="500",cache="miss",%s}': "0+10x60",
    'requests_total{status="200",cache="miss",%s}': "0+10x60",
    'time_to_first_token_seconds_bucket{le="10",%s}': "0x60",
    'time_to_first_token_seconds_bucket{le="30",%s}': "0+10x60",
    'time_to_first_token_seconds_bucket{le="+Inf",%s}': "0+10x60",
    "time_to_first_token_seconds_count{%s}": "0+10x60",
    "queue_depth{%s}": "200x60",
    'describes_total{result="failed",%s}': "0+1x60",
    'store_breaker_open{store="redis",node="r:6379",%s}': "1x60",
    'store_read_only{store="redis",%s}': "1x60",
    'context_damaged_total{store="redis",reason="checksum",%s}': "0+1x60",
}
HEALTHY = {
    'requests_total{status="500",cache="miss",%s}': "0x60",
    'requests_total{status="200",cache="miss",%s}': "0+10x60",
    'time_to_first_token_seconds_bucket{le="0.5",%s}': "0+10x60",
    'time_to_first_token_seconds_bucket{le="+Inf",%s}': "0+10x60",
    "time_to_first_token_seconds_count{%s}": "0+10x60",
    "queue_depth{%s}": "2x60",
    'describes_total{result="failed",%s}': "0x60",
    'store_breaker_open{store="redis",node="r:6379",%s}': "0x60",
    'store_read_only{store="redis",%s}': "0x60",
    'context_damaged_total{store="redis",reason="checksum",%s}': "0x60",
}
IDLE = dict.fromkeys(HEALTHY, "0x60")
RECORDED = "lookonce_time_to_first_token_seconds_p95"


@needs_promtool
def test_each_alert_fires_on_its_fault_and_on_nothing_else(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules()))
    alerts = {rule["alert"] for rule in rules()["groups"][1]["rules"]}
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    cases = [
        (BROKEN, firing, {f'{{alertname="{name}"}}': 1 for name in alerts - {"LookonceMetricsAbsent"}}),
        (HEALTHY, firing, {}),
        (IDLE, firing, {}),
        ({}, firing, {'{alertname="LookonceMetricsAbsent"}': 1}),
        (BROKEN, RECORDED, {f"{RECORDED}{{{SERIES}}}": 29}),
        (IDLE, RECORDED, {f"{RECORDED}{{{SERIES}}}": 0}),
    ]
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": f"lookonce_{name % SERIES}", "values": v} for name, v in series.items()],
            "promql_expr_test": [
                {
                    "expr": expression,
                    "eval_time": "40m",
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
                }
            ],
        }
        for series, expression, samples in cases
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


def promtool(*arguments: object) -> None:
    done = subprocess.run([str(PROMTOOL), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

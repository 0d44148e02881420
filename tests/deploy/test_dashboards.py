"""The Grafana dashboards: what their code makes, and that each panel shows something of a real server."""

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import yaml

from lookonce_server.auth.tenants import key_hash, new_key

from ..support.pictures import messages, picture_url
from ..support.redis_server import RedisServer, free_port, wait_until
from ..support.server_process import MODEL, LookonceServer
from ..support.snippets import ROOT

FOLDER = ROOT / "deploy" / "grafana"
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
FILES = ("overview.json", "contexts.json", "tenants.json")
PROMTOOL = Path(os.environ.get("LOOKONCE_TEST_PROMTOOL") or shutil.which("promtool") or "promtool")
PROMETHEUS = shutil.which("prometheus") or shutil.which(PROMTOOL.with_name("prometheus"))
TENANTS = {"acme": new_key(), "globex": new_key()}
SECONDS = 120.0  # for all panels to show something; only a failure waits that long


class PanelQuery(NamedTuple):
    """A query of a panel, with every variable at "All"."""

    board: str
    panel: str
    expression: str


def panel_queries() -> list[PanelQuery]:
    """Return every query of every dashboard."""
    found = []
    for file in FILES:
        board = json.loads((FOLDER / file).read_text())
        for panel in board["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m")
                expression = re.sub(r"\$(model|instance|tenant)\b", ".*", expression)
                found.append(PanelQuery(file.removesuffix(".json"), panel["title"], expression))
    return found


def test_the_files_are_what_the_code_makes():
    spec = spec_from_file_location("dashboards", FOLDER / "dashboards.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.dashboards()
    assert {path.name for path in FOLDER.glob("*.json")} == made.keys() == set(FILES)
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, f"{name}: run `make dashboards`"


@pytest.mark.parametrize("file", FILES)
def test_a_dashboard_can_be_provisioned_anywhere(file):
    board = json.loads((FOLDER / file).read_text())
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert set(variables) == {"datasource", "model", "instance"} | ({"tenant"} if file == "tenants.json" else set())
    assert variables.pop("datasource")["type"] == "datasource"
    assert all(v["includeAll"] and v["allValue"] == ".*" for v in variables.values())
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert {"model", "instance"} <= used <= {*variables, "__rate_interval"}, target["expr"]


class Prometheus:
    """A running Prometheus.

    Args:
        url: where it answers.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=30, trust_env=False)
        self._started_at = time.time()

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def value(self, expression: str) -> float | None:
        """Return the last number that a query gave at any second since the start; None if it never gave one."""
        span = {"start": self._started_at, "end": time.time(), "step": "1"}
        reply = self._client.post("/api/v1/query_range", data={"query": expression, **span}).json()
        assert reply["status"] == "success", (expression, reply)
        values = [float(value) for series in reply["data"]["result"] for _, value in series["values"]]
        numbers = [value for value in values if not math.isnan(value)]
        return numbers[-1] if numbers else None

    def rules(self) -> list[dict[str, Any]]:
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus with the rules, scraping a server each second."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "lookonce", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [str(PROMETHEUS), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(prometheus.is_ready, "Prometheus answers")
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(30)


def ask(server: LookonceServer, tenant: str, image: str | None, **options: Any) -> dict[str, Any]:
    """Ask a question, and return its `lookonce` object."""
    body = {"model": MODEL, "messages": messages("How many objects are there?", image), "max_tokens": 8, **options}
    headers = {"authorization": f"Bearer {TENANTS[tenant]}"}
    reply = server.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()["lookonce"]


def send_traffic(server: LookonceServer, redis: RedisServer) -> None:
    """Make of everything something: misses, hits, full passes, a refusal, an eviction, and a Redis that goes away."""
    for image in map(picture_url, (501, 502)):
        ask(server, "acme", image)
        ask(server, "acme", image)  # waits for the describe pass
    assert ask(server, "globex", picture_url(503), lookonce={"on_miss": "compress", "ttl": 1})["cache"] == "miss"
    ask(server, "globex", picture_url(501), lookonce={"cache": "bypass"})
    ask(server, "globex", None)
    assert server.get("/v1/models").status_code == 401
    server.wait_for("context_evictions_total", 1, reason="expired")
    redis.kill()
    ask(server, "acme", picture_url(501))
    server.wait_for("store_breaker_open", 1)
    redis.start()


@pytest.mark.extended
@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")
def test_every_panel_shows_something_of_a_real_server(tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text("[tenants]\n" + "".join(f'{t} = ["sha256:{key_hash(k)}"]\n' for t, k in TENANTS.items()))
    queries = [query for query in panel_queries() if "vllm:" not in query.expression]
    recorded = [group for group in yaml.safe_load(RULES.read_text())["groups"] if group["name"] == "lookonce.records"]
    queries += [PanelQuery("rules", rule["record"], rule["record"]) for rule in recorded[0]["rules"]]
    with RedisServer(arguments=["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]) as redis:
        arguments = ("--api-keys", str(keys), "--metrics-tenants", "1", "--store", f"{redis.url}?hot_bytes=16MiB")
        with (
            LookonceServer(*arguments, "--describe-tokens", "16") as server,
            running_prometheus(tmp_path, server.url.removeprefix("http://")) as prometheus,
        ):
            wait_until(lambda: prometheus.value("lookonce_ready") == 1, "the server was scraped")
            send_traffic(server, redis)
            values = values_of(prometheus, queries)
            healths = {rule["name"]: rule["health"] for rule in prometheus.rules()}
    empty = [query for query in queries if values[query] is None]
    assert empty == []
    assert set(healths.values()) == {"ok"}, healths
    if table := os.environ.get("LOOKONCE_TEST_DASHBOARD_TABLE"):
        write_table(Path(table), values)


def values_of(prometheus: Prometheus, queries: list[PanelQuery]) -> dict[PanelQuery, float | None]:
    """Return a value of each query, as soon as each has one."""
    values: dict[PanelQuery, float | None] = dict.fromkeys(queries)
    deadline = time.monotonic() + SECONDS
    while (left := [query for query in queries if values[query] is None]) and time.monotonic() < deadline:
        values |= {query: prometheus.value(query.expression) for query in left}
        time.sleep(0.5)
    return values


def write_table(path: Path, values: dict[PanelQuery, float | None]) -> None:
    """Write each query with its value, as docs/dashboards.md shows it."""
    rows = [
        f"| {query.board} | {query.panel} | `{query.expression.replace('|', '&#124;')}` | {value:.6g} |"
        for query, value in values.items()
        if value is not None
    ]
    path.write_text("\n".join(["| dashboard | panel | query | a value |", "|---|---|---|---|", *rows]) + "\n")


def test_a_panel_of_vllm_asks_for_a_metric_of_vllm():
    names = {name for query in panel_queries() for name in re.findall(r"\b(vllm:\w+)", query.expression)}
    source = Path(find_spec("vllm").submodule_search_locations[0], "v1", "metrics", "loggers.py").read_text()
    assert names
    assert all(f'name="{name}"' in source for name in names)

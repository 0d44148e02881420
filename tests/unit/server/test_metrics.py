"""/metrics: well formed, named by convention, and moved by what happens."""

import base64
import re
from importlib.metadata import version
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lookonce_cache import NodeUsage
from lookonce_server.app import _metrics, running_app
from lookonce_server.auth.keys import Keys, read_keys
from lookonce_server.http import errors
from lookonce_server.metrics import Metrics
from lookonce_server.settings import Settings

from ...support.samples import png

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
UNITS = ("_open", "_only", "_images", "_seconds", "_bytes", "_ratio", "_per_second", "_depth", "_running", "_waiting")
UNITS += ("_build_info", "_ready")
OF_REDIS = {"store_evicted_keys_total"}  # a store in memory has none


@pytest.fixture(scope="module")
async def client():
    """A client of a whole app, in this process."""
    settings = Settings(describe_tokens=24, metrics_tenants=1)
    async with (
        running_app(settings) as app,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=60) as made,
    ):
        yield made


async def families(client) -> dict:
    reply = await client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(reply.text)}


async def value(client, name: str, **labels: str) -> float:
    samples = [s for family in (await families(client)).values() for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


async def chat(client, seed: int, **fields) -> dict:
    url = f"data:image/png;base64,{base64.b64encode(png(seed)).decode()}"
    parts = [{"type": "text", "text": "How many objects are there?"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "lookonce-scenes", "messages": [{"role": "user", "content": parts}], "max_tokens": 8} | fields
    reply = await client.post("/v1/chat/completions", json=body)
    return reply.json()


def documented() -> dict[str, tuple[str, set[str], str]]:
    """The type, the labels and the description of each metric of the page."""
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (\w+) \|([^|]*)\| (.*) \|$", PAGE, re.MULTILINE)
    return {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), text)
        for names, kind, labels, text in rows
        for name in re.findall(r"`(\w+)`", names)
    }


async def test_a_fresh_server_shows_its_counters_at_0(client):
    """A rate begins at the second value of a series: what is first shown at 1 is an error that no alert sees."""
    await client.get("/metrics")
    samples = [sample for family in (await families(client)).values() for sample in family.samples]
    shown = {name: [s for s in samples if s.name == f"lookonce_{name}"] for name in documented()}
    for name, (kind, labels, text) in documented().items():
        if kind != "counter" or name in OF_REDIS:
            continue
        assert shown[name], name
        assert {s.value for s in shown[name] if s.labels.get("outcome") != "ok"} == {0}, name  # the store was looked at
        assert {frozenset(s.labels) for s in shown[name]} == {frozenset(labels | {"model_name"})}, name
        if labels and labels <= {"reason", "outcome", "where", "result", "kind"}:
            (label,) = labels
            assert {s.labels[label] for s in shown[name]} == set(re.findall(r"`([a-z_]+)`", text)), name
    caches = {s.labels["cache"] for s in shown["requests_total"]}
    assert caches == {"hit", "miss", "bypass", "none"}
    for name in ("request_duration_seconds", "time_to_first_token_seconds"):
        assert {s.labels["cache"] for s in samples if s.name == f"lookonce_{name}_count"} == caches
    operations = re.search(r"`operation` is (.*?)\. `outcome` is (.*?)\.", PAGE, re.DOTALL)
    said = [set(re.findall(r"`([a-z]+)`", operations[i])) - {"outcome"} for i in (1, 2)]
    found = [{s.labels[label] for s in shown["store_operations_total"]} for label in ("operation", "outcome")]
    assert found[0] == said[0]
    assert found[1] == said[1]


async def test_the_page_lists_each_metric_with_its_type(client):
    shown = {
        f"{name.removeprefix('lookonce_')}{'_total' if family.type == 'counter' else ''}": family.type
        for name, family in (await families(client)).items()
        if not name.endswith("_created")
    }
    page = {name: kind for name, (kind, _, _) in documented().items()}
    assert shown.keys() - page.keys() == set()
    assert {name: page[name] for name in shown} == shown


async def test_every_series_names_the_model(client):
    samples = [sample for family in (await families(client)).values() for sample in family.samples]
    assert len(samples) > 100
    assert {s.labels.get("model_name") for s in samples} == {"lookonce-scenes"}


async def test_the_build_is_told(client):
    assert await value(client, "lookonce_build_info", engine="transformers", lookonce=version("lookonce")) == 1


def tenant_values(metrics: Metrics, name: str) -> dict[str, float]:
    samples = [s for family in metrics.registry.collect() for s in family.samples]
    found = [(s.labels["tenant"], s.value) for s in samples if s.name == f"lookonce_tenant_{name}" and s.value]
    return {tenant: sum(value for other, value in found if other == tenant) for tenant, _ in found}


async def test_tenants_are_counted_by_name_up_to_a_bound(tmp_path):
    names = ["zoe", "acme", "globex"]
    file = tmp_path / "keys.toml"
    file.write_text("[tenants]\n" + "".join(f'{n} = ["sha256:{i:064x}"]\n' for i, n in enumerate(names)))
    settings = Settings(api_keys=file, metrics_tenants=2)
    metrics = _metrics(settings, read_keys(file, None, settings.tenant_limits))
    for name in [*names, "initech", None]:
        metrics.tenants.count_request(name, "hit", "200")
        metrics.tenants.count_tokens(name, processed=1, saved=10, generated=2)
    assert tenant_values(metrics, "requests_total") == {"zoe": 1, "acme": 1, "other": 3}
    assert tenant_values(metrics, "prompt_tokens_processed_total") == {"zoe": 1, "acme": 1, "other": 3}
    assert tenant_values(metrics, "prompt_tokens_saved_total") == {"zoe": 10, "acme": 10, "other": 30}
    assert tenant_values(metrics, "generated_tokens_total") == {"zoe": 2, "acme": 2, "other": 6}
    unnamed = _metrics(Settings(), Keys({}, {}))
    unnamed.tenants.count_request("zoe", "hit", "200")
    assert not [f.name for f in unnamed.registry.collect() if f.name.startswith("lookonce_tenant")]


def test_what_leaves_the_memory_is_counted_with_its_age():
    metrics = Metrics()
    metrics.store.holds("memory", 0)
    metrics.store.evicted("memory", "room", 90.0, 30.0)
    found = metrics.registry.get_sample_value
    assert found("lookonce_context_evictions_total", {"store": "memory", "reason": "room"}) == 1
    assert found("lookonce_context_evictions_total", {"store": "memory", "reason": "expired"}) == 0
    assert found("lookonce_context_lifetime_seconds_sum", {"store": "memory"}) == 90
    assert found("lookonce_context_idle_before_evict_seconds_sum", {"store": "memory"}) == 30


def test_a_server_of_the_store_that_tells_nothing_any_more_is_not_shown():
    metrics = Metrics()
    found = metrics.registry.get_sample_value
    nodes = [{"store": "redis", "node": node} for node in ("a:6379", "b:6379")]
    metrics.store.show_usage([NodeUsage("redis", "a:6379", 5, 10, 3), NodeUsage("redis", "b:6379", 6, None, 0)])
    assert [found("lookonce_store_used_bytes", node) for node in nodes] == [5, 6]
    assert [found("lookonce_store_max_bytes", node) for node in nodes] == [10, None]
    assert [found("lookonce_store_evicted_keys_total", node) for node in nodes] == [3, 0]
    metrics.store.show_usage([NodeUsage("redis", "b:6379", 7, None, 0)])
    assert [found("lookonce_store_used_bytes", node) for node in nodes] == [None, 7]


def test_every_refusal_of_a_request_has_its_counter():
    metrics = Metrics()
    shown = {s.labels["reason"] for family in metrics.refused.collect() for s in family.samples}
    not_let_in = (401, 408, 413, 429, 431)
    assert shown >= {mapping.code for mapping in errors._TABLE.values() if mapping.status in not_let_in}


async def test_names_follow_the_conventions(client):
    for name, family in (await families(client)).items():
        assert re.fullmatch(r"lookonce_[a-z_]+", name), name
        assert family.documentation.endswith("."), name
        if name.endswith("_created"):  # when a counter or histogram began, as prometheus_client adds it
            continue
        if family.type == "counter":
            assert all(s.name.endswith(("_total", "_created")) for s in family.samples), name
        else:
            assert not name.endswith("_total"), name
            assert name.endswith(UNITS), name


async def test_the_retention_is_told(client):
    assert await value(client, "lookonce_retention_ratio") == 0.05


async def test_values_move_with_a_miss_and_a_hit(client):
    miss = await chat(client, 71, lookonce={"on_miss": "compress"})
    assert await value(client, "lookonce_requests_total", cache="miss", status="200") == 1
    assert await value(client, "lookonce_context_lookups_total", result="miss", tier="memory") == 1
    assert await value(client, "lookonce_describes_total", result="done") == 1
    assert await value(client, "lookonce_describe_duration_seconds_count") == 1
    context = (await client.get("/v1/contexts")).json()["data"][0]
    assert await value(client, "lookonce_context_size_bytes_sum") == context["bytes"]
    processed = await value(client, "lookonce_prompt_tokens_processed_total")
    saved = await value(client, "lookonce_prompt_tokens_saved_total")
    assert saved == miss["lookonce"]["tokens_saved"]
    assert await value(client, "lookonce_prompt_tokens_processed_total", prompt="full") == 0
    image_tokens = miss["lookonce"]["image_tokens"]
    assert await value(client, "lookonce_prompt_tokens_saved_total", kind="image") == image_tokens
    assert await value(client, "lookonce_describe_tokens_total", kind="image") == image_tokens
    described = [await value(client, "lookonce_describe_tokens_total", kind=kind) for kind in ("text", "generated")]
    assert described[0] > 0
    assert 0 < described[1] <= 24
    for name in ("queue", "inference"):
        assert await value(client, f"lookonce_describe_{name}_time_seconds_count") == 1

    hit = await chat(client, 71)
    usage = hit["usage"]
    assert await value(client, "lookonce_requests_total", cache="hit", status="200") == 1
    assert await value(client, "lookonce_context_lookups_total", result="hit", tier="memory") == 1
    assert await value(client, "lookonce_describes_total") == 1
    computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert await value(client, "lookonce_prompt_tokens_processed_total") == processed + computed
    assert await value(client, "lookonce_prompt_tokens_saved_total") == saved + hit["lookonce"]["tokens_saved"]
    generated = miss["usage"]["completion_tokens"] + usage["completion_tokens"]
    assert await value(client, "lookonce_generated_tokens_total") == generated
    for name in ("request_duration", "time_to_first_token"):
        for cache in ("miss", "hit"):
            assert await value(client, f"lookonce_{name}_seconds_count", cache=cache) == 1
        assert await value(client, "lookonce_request_queue_time_seconds_count", cache=cache) == 1
    assert await value(client, "lookonce_request_prefill_time_seconds_count", prompt="context") == 2
    steps = [reply["usage"]["completion_tokens"] - 1 for reply in (miss, hit)]
    found = [await value(client, "lookonce_inter_token_latency_seconds_count", cache=c) for c in ("miss", "hit")]
    assert found == steps
    assert await value(client, "lookonce_tenant_requests_total", tenant="default", status="200") == 2
    assert await value(client, "lookonce_tenant_generated_tokens_total", tenant="default") == generated
    assert await value(client, "lookonce_queue_depth") == 0
    assert await value(client, "lookonce_ready") == 1
    used = await value(client, "lookonce_store_used_bytes", store="memory", node="")
    assert used == context["bytes"] == await value(client, "lookonce_store_held_bytes")
    assert await value(client, "lookonce_store_max_bytes") == 2 * 1024**3


async def test_a_full_pass_is_counted_by_kind(client):
    before = await value(client, "lookonce_prompt_tokens_processed_total", prompt="full", kind="image")
    answer = await chat(client, 71, lookonce={"cache": "bypass"})
    images = await value(client, "lookonce_prompt_tokens_processed_total", prompt="full", kind="image") - before
    texts = await value(client, "lookonce_prompt_tokens_processed_total", prompt="full", kind="text")
    assert images == await value(client, "lookonce_describe_tokens_total", kind="image")
    assert images + texts == answer["usage"]["prompt_tokens"]
    assert await value(client, "lookonce_request_prefill_time_seconds_count", prompt="full") == 1


async def test_refusals_are_counted_by_their_status(client):
    await chat(client, 72, model="other")
    assert await value(client, "lookonce_requests_total", cache="none", status="404") == 1


async def test_the_app_tells_that_it_is_ready(client):
    assert (await client.get("/health")).json() == {"status": "ok"}
    ready = await client.get("/ready")
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ready", "model": "lookonce-scenes", "store": "memory", "store_state": "ok"},
    )

"""Write the Grafana dashboards beside this file: `make dashboards`.

They are for Grafana 10.4 and later. Each query asks for metrics of docs/metrics.md, and for no recording rule.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models

FOLDER = Path(__file__).parent
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
SERIES = 'model_name=~"$model",instance=~"$instance"'
ASKED = f'{SERIES},cache=~"hit|miss"'  # about images
HITS = f'{SERIES},cache="hit"'
TENANTS = f'{SERIES},tenant=~"$tenant"'
FULL = f'{SERIES},prompt="full"'
FROM_CONTEXT = f'{SERIES},prompt="context"'
READS_AND_PUTS = f'{SERIES},operation=~"get|put"'
FAILED = f'{SERIES},status=~"5.."'
TENANTS_ASKED = f'{TENANTS},cache=~"hit|miss"'
TENANTS_HITS = f'{TENANTS},cache="hit"'


class Query(NamedTuple):
    """A query, and the name that each of its series has."""

    expression: str
    legend: str = ""


class Panel(NamedTuple):
    """A panel: a graph over time, or one number."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    text: str = ""
    is_number: bool = False


def rate(metric: str, matchers: str = SERIES, by: str = "") -> str:
    """Return the rate of a counter, summed by labels."""
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate(lookonce_{metric}{{{matchers}}}[$__rate_interval]))"


def total(metric: str, matchers: str = SERIES) -> str:
    """Return a counter's sum over the life of the processes."""
    return f"sum(lookonce_{metric}{{{matchers}}})"


def quantile(q: float, metric: str, matchers: str = SERIES, by: str = "") -> str:
    """Return a quantile of a histogram, by labels."""
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', matchers, f'{by}, le' if by else 'le')})"


def quantiles(metric: str, by: str = "", matchers: str = SERIES) -> tuple[Query, ...]:
    """Return the median and the 95th percentile of a histogram."""
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(Query(quantile(q, metric, matchers, by), f"{legend}p{q * 100:g}") for q in (0.5, 0.95))


# Seconds of the model for a prompt token of a full pass; tokens that a context saves an answer, and costs.
TOKEN_SECONDS = f"{total('request_prefill_time_seconds_sum', FULL)} / {total('prompt_tokens_processed_total', FULL)}"
SAVED_TOKENS = f"{total('prompt_tokens_saved_total')} / {total('request_prefill_time_seconds_count', FROM_CONTEXT)}"
DESCRIBE_TOKENS = f"{total('describe_tokens_total')} / {total('describe_inference_time_seconds_count')}"
HIT_RATE = f"{rate('requests_total', HITS)} / {rate('requests_total', ASKED)}"

OVERVIEW = (
    Panel("Hit rate", "percentunit", (Query(HIT_RATE),), "Of the questions about images.", is_number=True),
    Panel("Prompt tokens saved", "short", (Query(total("prompt_tokens_saved_total")),), is_number=True),
    Panel(
        "Time of the model saved",
        "s",
        (Query(f"{total('prompt_tokens_saved_total')} * {TOKEN_SECONDS}"),),
        "The tokens saved, at the speed at which full prompts were run: an estimate, by the clock.",
        is_number=True,
    ),
    Panel(
        "Questions until an image pays",
        "none",
        (Query(f"({DESCRIBE_TOKENS}) / ({SAVED_TOKENS})"),),
        "Tokens of a describe pass, over those that an answer from its context saves.",
        is_number=True,
    ),
    Panel("Replicas ready", "none", (Query(f"sum(lookonce_ready{{{SERIES}}})"),), is_number=True),
    Panel(
        "Versions",
        "none",
        (Query(f"count by (lookonce, engine) (lookonce_build_info{{{SERIES}}})", "{{lookonce}} {{engine}}"),),
        is_number=True,
    ),
    Panel("Questions a second, by status", "reqps", (Query(rate("requests_total", by="status"), "{{status}}"),)),
    Panel(
        "Share of errors of the server",
        "percentunit",
        (Query(f"{rate('requests_total', FAILED)} / {rate('requests_total')}", "5xx"),),
    ),
    Panel("First token", "s", quantiles("time_to_first_token_seconds", "cache", ASKED)),
    Panel("Between tokens", "s", quantiles("inter_token_latency_seconds", "cache", ASKED)),
    Panel("Whole answers", "s", quantiles("request_duration_seconds", "cache", ASKED)),
    Panel(
        "Hit rate, by outcome",
        "percentunit",
        (
            Query(
                f"{rate('requests_total', ASKED, 'cache')} / ignoring(cache) group_left() "
                f"{rate('requests_total', ASKED)}",
                "{{cache}}",
            ),
        ),
    ),
    Panel(
        "Prompt tokens a second",
        "short",
        (
            Query(rate("prompt_tokens_saved_total", by="kind"), "saved {{kind}}"),
            Query(rate("prompt_tokens_processed_total", by="kind"), "processed {{kind}}"),
        ),
    ),
    Panel("Generated tokens a second", "short", (Query(rate("generated_tokens_total"), "generated"),)),
    Panel(
        "Answers in the engine",
        "short",
        (
            Query(f"sum(lookonce_num_requests_running{{{SERIES}}})", "running"),
            Query(f"sum(lookonce_num_requests_waiting{{{SERIES}}})", "waiting"),
        ),
    ),
    Panel("Waiting for the engine", "s", quantiles("request_queue_time_seconds")),
    Panel("Until the first token, in the engine", "s", quantiles("request_prefill_time_seconds", "prompt")),
    Panel("Refused requests a second", "reqps", (Query(rate("requests_refused_total", by="reason"), "{{reason}}"),)),
    Panel(
        "KV cache in use (vLLM)",
        "percentunit",
        (Query(f"vllm:kv_cache_usage_perc{{{SERIES}}}", "{{instance}}"),),
        "The embedded engine has no pool of KV memory.",
    ),
)

CONTEXTS = (
    Panel(
        "Lookups a second, by result and tier",
        "ops",
        (Query(rate("context_lookups_total", by="result, tier"), "{{result}} {{tier}}"),),
    ),
    Panel("Answers from contexts a second", "ops", (Query(rate("context_answers_total", by="tier"), "{{tier}}"),)),
    Panel(
        "Memory of Redis",
        "bytes",
        (
            Query(f'max by (node) (lookonce_store_used_bytes{{{SERIES},store="redis"}})', "{{node}} used"),
            Query(f'max by (node) (lookonce_store_max_bytes{{{SERIES},store="redis"}})', "{{node}} maxmemory"),
        ),
    ),
    Panel("Contexts in memory", "bytes", (Query(f"lookonce_store_held_bytes{{{SERIES}}}", "{{instance}} {{store}}"),)),
    Panel("Size of a context made", "bytes", quantiles("context_size_bytes")),
    Panel(
        "Bytes of contexts a second",
        "Bps",
        (Query(rate("store_bytes_total", by="store, direction"), "{{store}} {{direction}}"),),
    ),
    Panel("Describe passes a second", "ops", (Query(rate("describes_total", by="result"), "{{result}}"),)),
    Panel(
        "Describe passes in the engine",
        "short",
        (
            Query(f"sum(lookonce_num_describes_running{{{SERIES}}})", "running"),
            Query(f"sum(lookonce_num_describes_waiting{{{SERIES}}})", "waiting"),
        ),
    ),
    Panel("Describe passes, waiting", "s", quantiles("describe_queue_time_seconds")),
    Panel("Describe passes, running", "s", quantiles("describe_inference_time_seconds")),
    Panel(
        "Tokens of describe passes a second", "short", (Query(rate("describe_tokens_total", by="kind"), "{{kind}}"),)
    ),
    Panel(
        "Questions that waited for a describe pass a second",
        "ops",
        (Query(rate("describe_waits_total", by="where"), "{{where}}"),),
    ),
    Panel(
        "Evictions a second",
        "ops",
        (
            Query(rate("context_evictions_total", by="store, reason"), "{{store}} {{reason}}"),
            Query(
                f"max by (node) (rate(lookonce_store_evicted_keys_total{{{SERIES}}}[$__rate_interval]))",
                "{{node}} keys",
            ),
        ),
    ),
    Panel(
        "Age of contexts dropped from memory",
        "s",
        (
            Query(quantile(0.5, "context_lifetime_seconds"), "since they were put"),
            Query(quantile(0.5, "context_idle_before_evict_seconds"), "since their last use"),
        ),
        "Medians.",
    ),
    Panel(
        "Time of the store's calls, 95 of 100",
        "s",
        (
            Query(
                quantile(0.95, "store_operation_duration_seconds", READS_AND_PUTS, "store, operation"),
                "{{store}} {{operation}}",
            ),
        ),
    ),
    Panel(
        "Calls of the store that failed a second",
        "ops",
        (
            Query(
                rate("store_operations_total", f'{SERIES},outcome=~"error|refused"', "store, outcome"),
                "{{store}} {{outcome}}",
            ),
        ),
    ),
    Panel(
        "Redis given up, or read-only",
        "short",
        (
            Query(f"max by (node) (lookonce_store_breaker_open{{{SERIES}}})", "{{node}} given up"),
            Query(f"max by (store) (lookonce_store_read_only{{{SERIES}}})", "{{store}} read-only"),
        ),
        "Shown once it happened to a server.",
    ),
    Panel(
        "Damaged values",
        "short",
        (
            Query(
                f"sum by (store, reason) (increase(lookonce_context_damaged_total{{{SERIES}}}[$__rate_interval]))",
                "{{store}} {{reason}}",
            ),
        ),
    ),
    Panel("Contexts lost before the answer a second", "ops", (Query(rate("context_lost_total"), "lost"),)),
    Panel("Fallbacks a second, by outcome", "ops", (Query(rate("fallbacks_total", by="outcome"), "{{outcome}}"),)),
)

TENANT = (
    Panel("Questions a second", "reqps", (Query(rate("tenant_requests_total", TENANTS, "tenant"), "{{tenant}}"),)),
    Panel(
        "Hit rate",
        "percentunit",
        (
            Query(
                f"{rate('tenant_requests_total', TENANTS_HITS, 'tenant')}"
                f" / {rate('tenant_requests_total', TENANTS_ASKED, 'tenant')}",
                "{{tenant}}",
            ),
        ),
    ),
    Panel(
        "Prompt tokens saved a second",
        "short",
        (Query(rate("tenant_prompt_tokens_saved_total", TENANTS, "tenant"), "{{tenant}}"),),
    ),
    Panel(
        "Prompt tokens processed a second",
        "short",
        (Query(rate("tenant_prompt_tokens_processed_total", TENANTS, "tenant"), "{{tenant}}"),),
    ),
    Panel(
        "Generated tokens a second",
        "short",
        (Query(rate("tenant_generated_tokens_total", TENANTS, "tenant"), "{{tenant}}"),),
    ),
    Panel(
        "Questions refused for too many a second",
        "reqps",
        (Query(rate("tenant_requests_total", TENANTS + ',status="429"', "tenant"), "{{tenant}}"),),
    ),
    Panel(
        "Errors of the server a second",
        "reqps",
        (Query(rate("tenant_requests_total", TENANTS + ',status=~"5.."', "tenant"), "{{tenant}}"),),
    ),
    Panel(
        "Share of all tokens",
        "percentunit",
        (
            Query(
                f"({rate('tenant_prompt_tokens_processed_total', TENANTS, 'tenant')}"
                f" + {rate('tenant_generated_tokens_total', TENANTS, 'tenant')})"
                f" / ignoring(tenant) group_left() ({rate('prompt_tokens_processed_total')}"
                f" + {rate('generated_tokens_total')})",
                "{{tenant}}",
            ),
        ),
    ),
)


def build(name: str, panels: Sequence[Panel], *, by_tenant: bool = False) -> models.Dashboard:
    """Build a dashboard.

    Args:
        name: of its file.
        panels: in their order.
        by_tenant: whether it has a variable of tenants.
    """
    board = (
        dashboard.Dashboard(f"lookonce: {name}")
        .uid(f"lookonce-{name}")
        .tags(["lookonce"])
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("data source"))
        .with_variable(_variable("model", "label_values(lookonce_build_info, model_name)"))
        .with_variable(_variable("instance", 'label_values(lookonce_build_info{model_name=~"$model"}, instance)'))
    )
    if by_tenant:
        board = board.with_variable(
            _variable("tenant", f"label_values(lookonce_tenant_requests_total{{{SERIES}}}, tenant)")
        )
    for i, panel in enumerate(panels, 1):
        built = _number(panel) if panel.is_number else _graph(panel)
        board = board.with_panel(built.id(i))
    return board.build()


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )


def _graph(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .span(12)
        .height(8)
        .fill_opacity(10)
        .min(0)
        .legend(common.VizLegendOptions().placement(options.LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
    )
    return _fill(built, panel)


def _number(panel: Panel) -> stat.Panel:
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    return _fill(stat.Panel().span(4).height(4).reduce_options(reduce), panel)


def _fill(built: Any, panel: Panel) -> Any:
    built = built.title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE)
    for letter, query in zip("ABCDEF", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).ref_id(letter).datasource(SOURCE)
        built = built.with_target(target.legend_format(query.legend or panel.title))
    return built


def dashboards() -> dict[str, str]:
    """Return each dashboard's JSON by the name of its file."""
    boards = (
        build("overview", OVERVIEW),
        build("contexts", CONTEXTS),
        build("tenants", TENANT, by_tenant=True),
    )
    return {
        f"{str(board.uid).removeprefix('lookonce-')}.json": json.dumps(board, cls=JSONEncoder, indent=2) + "\n"
        for board in boards
    }


if __name__ == "__main__":
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text)

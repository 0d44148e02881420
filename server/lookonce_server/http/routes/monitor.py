"""Serve the figures of `/monitor`, this process's own, to those who have a key where keys are asked for."""

import asyncio
import time
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry

from lookonce_cache import StoreUnavailableError
from lookonce_server.http.state import AppState, state_of

router = APIRouter(include_in_schema=False)

STORE_SECONDS = 1.0  # that the page waits for a store: it asks again in a moment


@router.get("/monitor/data.json")
async def data(request: Request) -> dict[str, Any]:
    """Return the process's totals, and of the key's own tenant its contexts and latest questions.

    Outside of `/v1`, so that watching does not count as use: it takes no tenant's place or rate.
    """
    state = state_of(request)
    tenant = state.access.tenant(request.headers.get("authorization"))
    return {
        "model": state.served_name,
        "version": version("lookonce"),
        "started_at": state.started_at,
        "now": time.time(),
        "store": state.store.tier,
        "contexts": await _contexts(state, tenant),
        "queue": state.engine.queue_depth,
        "totals": _totals(state.metrics.registry),
        "recent": state.recent.of(tenant),
    }


async def _contexts(state: AppState, tenant: str) -> dict[str, int] | None:
    """Return the number and bytes of a tenant's contexts; None if the store does not answer."""
    try:
        stats = await asyncio.wait_for(state.contexts.stats(tenant), STORE_SECONDS)
    except (StoreUnavailableError, TimeoutError):
        return None
    return {"count": stats.stored.contexts, "bytes": stats.stored.bytes}


def _totals(registry: CollectorRegistry) -> dict[str, float]:
    """Add up the metrics that the page shows, over all labels that it does not name."""
    samples = [sample for family in registry.collect() for sample in family.samples]

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in samples if s.name == f"lookonce_{name}" and labels.items() <= s.labels.items())

    first = "time_to_first_token_seconds"
    return {
        "hits": total("requests_total", cache="hit"),
        "misses": total("requests_total", cache="miss"),
        "questions": total("requests_total"),
        "failed": sum(s.value for s in samples if s.name == "lookonce_requests_total" and s.labels["status"] >= "500"),
        "refused": total("requests_refused_total"),
        "processed_tokens": total("prompt_tokens_processed_total"),
        "saved_tokens": total("prompt_tokens_saved_total"),
        "hit_answers": total(f"{first}_count", cache="hit"),
        "hit_seconds": total(f"{first}_sum", cache="hit"),
        "miss_answers": total(f"{first}_count", cache="miss"),
        "miss_seconds": total(f"{first}_sum", cache="miss"),
        "described": total("describes_total", result="done"),
        "describes_failed": total("describes_total", result="failed") + total("describes_total", result="refused"),
        "damaged": total("context_damaged_total"),
        "breakers_open": total("store_breaker_open"),
    }

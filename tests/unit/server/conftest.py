"""The model that ships, loaded once, and everything that stands on it."""

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import pytest
import torch
from fastapi import FastAPI

from lookonce_cache import MemoryStore
from lookonce_scenes import CHECKPOINT
from lookonce_server.app import _app
from lookonce_server.auth.tenants import TenantDirectory
from lookonce_server.engines.base import DescribePlan
from lookonce_server.engines.summary import summarize
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel, load_model
from lookonce_server.http.state import AppState
from lookonce_server.settings import Settings

from ...support.redis_server import free_port
from ...support.samples import ANSWER_TOKENS, PLAN, PROMPT, Bench


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch) -> None:
    """No setting of whoever runs the tests reaches them."""
    for name in [name for name in os.environ if name.upper().startswith("LOOKONCE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    return load_model(str(CHECKPOINT), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="session")
def engine(loaded) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(loaded, max_running=4, max_queue=256)
    summary = summarize(engine._prompts, loaded.model.config, describe_prompt=PROMPT, dtype=torch.float32)
    engine.facts = replace(engine.facts, summary=summary)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def bench_with(engine):
    """Sessions on the shared engine, with a store and a plan of their own."""

    def build(store=None, plan: DescribePlan = PLAN, **options) -> Bench:
        return Bench(engine, store or MemoryStore(), plan, **options)

    return build


@pytest.fixture
def bench(bench_with) -> Bench:
    return bench_with()


@pytest.fixture
def app_with(bench):
    """A function that makes the whole app on the shared engine with given settings; its model is called "m"."""

    def make(access=None, telemetry=None, **settings) -> FastAPI:
        return _app(
            AppState(
                settings=Settings(**{"max_answer_tokens": ANSWER_TOKENS} | settings),
                served_name="m",
                engine=bench.engine,
                store=bench.store,
                contexts=bench.contexts,
                sessions=bench.sessions,
                plan=bench.plan,
                access=access or TenantDirectory({}),
                images=bench.images,
                metrics=bench.metrics,
                started_at=time.time(),
                telemetry=telemetry,
            )
        )

    return make


@pytest.fixture
def app(app_with) -> FastAPI:
    """That app with the settings of tests."""
    return app_with()


@pytest.fixture
def client_with(app_with):
    """A client of an app with these settings."""

    def make(**settings) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app_with(**settings), raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)

    return make


@pytest.fixture
async def client(client_with):
    """A client of the app with the settings of tests."""
    async with client_with() as client:
        yield client


@pytest.fixture
def steps(engine, monkeypatch):
    """A list that grows by one with each step of an answer."""
    steps: list[int] = []
    compute = engine._scheduler._compute

    def counted(requests):
        steps.extend(1 for _ in requests)
        return compute(requests)

    monkeypatch.setattr(engine._scheduler, "_compute", counted)
    return steps


@pytest.fixture
def failing(engine, steps, monkeypatch) -> None:
    """The fifth step of an answer fails; all others would go on."""
    compute = engine._scheduler._compute

    def failing(requests):
        before, results = len(steps), list(compute(requests))
        if before < 5 <= len(steps):
            results[0] = RuntimeError("a secret")
        return results

    monkeypatch.setattr(engine._scheduler, "_compute", failing)


@pytest.fixture
def dead_redis() -> str:
    """The URL of a Redis that is not there: a port that was free a moment ago."""
    return f"redis://127.0.0.1:{free_port()}/0"

"""What operators and clients ask of the server itself: models, health, metrics."""

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lookonce_cache import StoreUnavailableError
from lookonce_server.errors import EngineError, ShuttingDownError
from lookonce_server.http.schemas.answers import Health, Model, Models, NotReady, Ready
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import AppState, Tenant, check_model, state_of

router = APIRouter()

STORE_SECONDS = 0.5  # that `/ready` waits for a store it does not need: who asks waits a second, often


def _model(state: AppState) -> dict[str, Any]:
    return {
        "id": state.served_name,
        "object": "model",
        "created": int(state.started_at),
        "owned_by": "lookonce",
        "max_model_len": state.engine.facts.max_tokens,
        "lookonce": _describing(state),
    }


def _describing(state: AppState) -> dict[str, Any]:
    """How images are described, and the profile that says so."""
    options = state.plan.options
    profile = state.settings.applied_profile
    if profile is None:
        return {**options, "profile": None}
    told = {"checkpoint": profile.checkpoint, "overridden": profile.overridden(options), "measured": profile.measured}
    return {**options, "profile": told}


@router.get("/v1/models", response_model=Models, responses=errors())
async def models(request: Request, tenant: Tenant) -> dict[str, Any]:
    """The one model served."""
    return {"object": "list", "data": [_model(state_of(request))]}


@router.get("/v1/models/{name:path}", response_model=Model, responses=errors(404))
async def model(name: str, request: Request, tenant: Tenant) -> dict[str, Any]:
    """One model."""
    state = state_of(request)
    check_model(name, state)
    return _model(state)


@router.head("/health", include_in_schema=False)
@router.get(
    "/health", response_model=Health, responses={503: {"description": "It is to be replaced.", "model": NotReady}}
)
async def health(request: Request) -> JSONResponse:
    """The process is up and answers, and its engine has not ended."""
    failure = state_of(request).phase.failure
    if failure:
        return JSONResponse({"status": "not ready", "engine": failure}, 503)
    return JSONResponse({"status": "ok"})


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=Ready, responses={503: {"description": "It cannot, for now.", "model": NotReady}})
async def ready(request: Request) -> JSONResponse:
    """The model passed its self-check, the engine works, and the server is not about to end: it answers questions.

    A store that is away takes contexts along, and no answers to questions that bring their image: `store_state` tells
    of it, and it makes the server not ready only where `--ready-needs-store` says so.
    """
    state = state_of(request)
    try:
        state.phase.check()
        await state.engine.ping()
    except ShuttingDownError:
        return JSONResponse({"status": "not ready", "server": "is shutting down"}, 503)
    except EngineError as error:
        return JSONResponse({"status": "not ready", "engine": str(error)}, 503)
    store_state = await _store_state(state)
    if store_state == "unavailable" and state.settings.ready_needs_store:
        return JSONResponse({"status": "not ready", "store": f"{state.store.tier} does not answer"}, 503)
    told = {"model": state.served_name, "store": state.store.tier, "store_state": store_state}
    return JSONResponse({"status": "ready", **told})


async def _store_state(state: AppState) -> Literal["ok", "read_only", "unavailable"]:
    """How it is with the store, as far as can be told in time."""
    try:
        async with asyncio.timeout(None if state.settings.ready_needs_store else STORE_SECONDS):
            await state.store.ping()
    except (StoreUnavailableError, TimeoutError):
        return "unavailable"
    return "ok" if state.metrics.store.takes_writes(state.store.tier) else "read_only"


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=PlainTextResponse, responses={200: {"description": "Prometheus' text format."}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics: the server's, and the engine's own."""
    state = state_of(request)
    state.metrics.queue_depth.set(state.engine.queue_depth)
    registries = (state.metrics.registry, state.engine.registry)
    return Response(b"".join(generate_latest(r) for r in registries if r), media_type=CONTENT_TYPE_LATEST)

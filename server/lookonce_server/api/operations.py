"""What operators and clients ask of the server itself: models, health, metrics."""

import logging
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lookonce_cache import StoreUnavailableError
from lookonce_server.api.documented import errors
from lookonce_server.api.shapes import Health, Model, Models, NotReady, Ready
from lookonce_server.api.state import AppState, Tenant, check_model, state_of
from lookonce_server.errors import EngineError, ShuttingDownError

router = APIRouter()
_log = logging.getLogger(__name__)


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
    """The model passed its self-check, the engine works, the store answers, and the server is not about to end."""
    state = state_of(request)
    try:
        state.phase.check()
        await state.engine.ping()
        await state.store.ping()
    except ShuttingDownError:
        return JSONResponse({"status": "not ready", "server": "is shutting down"}, 503)
    except EngineError as error:
        return JSONResponse({"status": "not ready", "engine": str(error)}, 503)
    except StoreUnavailableError as error:
        _log.warning("not ready: %s", error)
        return JSONResponse({"status": "not ready", "store": f"{state.store.tier} does not answer"}, 503)
    return JSONResponse({"status": "ready", "model": state.served_name, "store": state.store.tier})


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=PlainTextResponse, responses={200: {"description": "Prometheus' text format."}})
async def metrics(request: Request) -> Response:
    """Prometheus metrics: the server's, and the engine's own."""
    state = state_of(request)
    state.metrics.queue_depth.set(state.engine.queue_depth)
    registries = (state.metrics.registry, state.engine.registry)
    return Response(b"".join(generate_latest(r) for r in registries if r), media_type=CONTENT_TYPE_LATEST)

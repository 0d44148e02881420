"""Serve `/v1/contexts`: prepare images ahead, list and delete contexts."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic_core import to_json

from lookonce_server.http.bodies.image_request import documented_body, read_image_request
from lookonce_server.http.event_stream import DONE, EventStream, event
from lookonce_server.http.image_reader import ImageReader
from lookonce_server.http.schemas.contexts import (
    ContextDeleted,
    ContextDescription,
    ContextForm,
    ContextList,
    ContextObject,
    ContextRequest,
    ContextStats,
)
from lookonce_server.http.schemas.errors import EVENT, errors
from lookonce_server.http.state import Tenant, state_of
from lookonce_server.sessions.contexts import Prepared

router = APIRouter(prefix="/v1/contexts")
_CREATED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The context, or with `stream` the events of its making.",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    }
}


@router.post(
    "",
    response_model=ContextObject,
    responses={**_CREATED, **errors(400, 404, 415, 503)},
    openapi_extra=documented_body(ContextForm, ContextRequest),
)
async def create(request: Request, tenant: Tenant) -> Any:
    """Describe an image and keep its context, unless it is kept already."""
    state = state_of(request)
    image, fields = await read_image_request(
        request, state.images, ImageReader(state, tenant), ContextForm, ContextRequest
    )
    options = fields.options()
    state.contexts.check(options)
    steps = state.contexts.prepare(tenant, image, options)
    if fields.stream:
        return _stream(steps, state.settings.stream_silence)
    async with aclosing(steps):
        *_, last = [step async for step in steps]
    assert isinstance(last, Prepared)
    return ContextObject.of(last.info)


def _stream(steps: AsyncGenerator[str | Prepared], silence: float) -> EventStream:
    """Send the steps as events.

    A client that leaves stops none of them: the next question needs the context.
    """

    async def close(status: str) -> None:
        await steps.aclose()

    return EventStream(_events(steps), close, error_event=lambda error: _event("error", **error), silence=silence)


async def _events(steps: AsyncIterator[str | Prepared]) -> AsyncIterator[str]:
    yield _event("context.queued")
    is_described = False
    async for step in steps:
        if isinstance(step, Prepared):
            yield _event("context.completed", context=ContextObject.of(step.info), created=step.created)
            continue
        if not is_described:
            is_described = True
            yield _event("context.describing")
        if step:
            yield _event("context.description.delta", delta=step)
    yield DONE


def _event(kind: str, **fields: Any) -> str:
    return event(to_json({"type": kind, **fields}).decode())


@router.get("", responses=errors(400, 503))
async def index(
    request: Request,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> ContextList:
    """List the contexts, a page at a time; `next` is the `after` of the next page."""
    return ContextList.of(await state_of(request).contexts.list(tenant, limit, after))


@router.get("/stats", responses=errors(503))
async def stats(request: Request, tenant: Tenant) -> ContextStats:
    """Return the number, bytes and ages of contexts, and this server's hits."""
    return ContextStats.of(await state_of(request).contexts.stats(tenant))


@router.get("/{context_id}", responses=errors(404, 503))
async def get(context_id: str, request: Request, tenant: Tenant) -> ContextObject:
    """Return one context."""
    return ContextObject.of(await state_of(request).contexts.info(tenant, context_id))


@router.get("/{context_id}/description", responses=errors(404, 503))
async def description(context_id: str, request: Request, tenant: Tenant) -> ContextDescription:
    """Return what the model said of the image, for those who read and do not ask."""
    return ContextDescription.of(await state_of(request).contexts.info(tenant, context_id))


@router.delete("/{context_id}", responses=errors(404, 503))
async def delete(context_id: str, request: Request, tenant: Tenant) -> ContextDeleted:
    """Delete a context."""
    await state_of(request).contexts.delete(tenant, context_id)
    return ContextDeleted(id=context_id)

"""`/v1/contexts`: prepare images ahead, see and delete what is kept. A tenant meets its own contexts only."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from lookonce_server.http.bodies.image_request import documented_body, read_pictured
from lookonce_server.http.disconnect import DONE, EventStream, event
from lookonce_server.http.schemas.contexts import (
    ContextDeleted,
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
    responses={**_CREATED, **errors(400, 415, 503)},
    openapi_extra=documented_body(ContextForm, ContextRequest),
)
async def create(request: Request, tenant: Tenant) -> Any:
    """Describe an image and keep its context; an image that was described before is not described again."""
    state = state_of(request)
    image, fields = await read_pictured(request, state.images, ContextForm, ContextRequest)
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
    """The steps as events; a client that leaves stops none of them, since the next question wants the context."""

    async def ended(outcome: str) -> None:
        await steps.aclose()

    def failed(body: dict[str, Any]) -> str:
        return event({"type": "error", **body})

    return EventStream(_events(steps), ended, error_event=failed, silence=silence)


async def _events(steps: AsyncIterator[str | Prepared]) -> AsyncIterator[str]:
    yield event({"type": "context.queued"})
    is_described = False
    async for step in steps:
        if isinstance(step, Prepared):
            context = ContextObject.of(step.info).model_dump()
            yield event({"type": "context.completed", "context": context, "created": step.created})
            continue
        if not is_described:
            is_described = True
            yield event({"type": "context.describing"})
        if step:
            yield event({"type": "context.description.delta", "delta": step})
    yield DONE


@router.get("", responses=errors(400, 503))
async def index(
    request: Request,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> ContextList:
    """The contexts kept, a page at a time; `next` is the `after` of the page that follows."""
    return ContextList.of(await state_of(request).contexts.list(tenant, limit, after))


@router.get("/stats", responses=errors(503))
async def stats(request: Request, tenant: Tenant) -> ContextStats:
    """How many contexts there are, their bytes and ages, and how often they were found by this server."""
    return ContextStats.of(await state_of(request).contexts.stats(tenant))


@router.get("/{context_id}", responses=errors(404, 503))
async def get(context_id: str, request: Request, tenant: Tenant) -> ContextObject:
    """One context."""
    return ContextObject.of(await state_of(request).contexts.info(tenant, context_id))


@router.delete("/{context_id}", responses=errors(404, 503))
async def delete(context_id: str, request: Request, tenant: Tenant) -> ContextDeleted:
    """Forget a context."""
    await state_of(request).contexts.delete(tenant, context_id)
    return ContextDeleted(id=context_id)

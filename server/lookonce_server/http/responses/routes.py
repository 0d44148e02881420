"""Serve `/v1/responses`."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.bodies.json_body import JsonRoute
from lookonce_server.http.generation import generate
from lookonce_server.http.responses.objects import Deleted, ItemList, ResponseObject
from lookonce_server.http.responses.question import ResponseQuestion
from lookonce_server.http.responses.request import ItemsQuery, NoQuery, ResponseRequest
from lookonce_server.http.responses.response_store import ResponseStore
from lookonce_server.http.responses.responses_format import ResponsesFormat, draft_of
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import Tenant, state_of

router = APIRouter(prefix="/v1/responses", route_class=JsonRoute)
_ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The response; with `stream`, its events.", "content": {"text/event-stream": {}}}
}


@router.post("", response_model=ResponseObject, responses=_ANSWERED | errors(400, 404, 415, 503))
async def create(body: ResponseRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question, in a conversation that may be continued."""
    state = state_of(request)
    draft = draft_of(body, state.served_name, store=state.settings.store_responses and body.store is not False)
    question = ResponseQuestion(body, draft, state, tenant)
    answer_format = ResponsesFormat(draft, question, state.engine if body.wants_logprobs else None)
    return await generate(request, state, question.ask(), answer_format, stream=bool(body.stream))


@router.get("/{response_id}", response_model=ResponseObject, responses=errors(400, 404, 503))
async def get(response_id: str, request: Request, tenant: Tenant, query: Annotated[NoQuery, Query()]) -> ResponseObject:
    """Return a response that was kept, without log-probabilities. Counts as use."""
    return (await _store(request, tenant).find(response_id)).response


@router.delete("/{response_id}", response_model=Deleted, responses=errors(400, 404, 503))
async def delete(response_id: str, request: Request, tenant: Tenant) -> Deleted:
    """Delete a response. Those that went on from it stay, with the whole conversation."""
    await _store(request, tenant).delete(response_id)
    return Deleted(id=response_id)


@router.get("/{response_id}/input_items", response_model=ItemList, responses=errors(400, 404, 503))
async def input_items(
    response_id: str,
    request: Request,
    tenant: Tenant,
    query: Annotated[ItemsQuery, Query()],
) -> ItemList:
    """List the messages of the conversation that a response answered. Counts as use."""
    items = (await _store(request, tenant).find(response_id)).listed_items()
    if query.order == "desc":
        items.reverse()
    ids = [item.id for item in items]
    if query.after is not None and query.after not in ids:
        raise InvalidRequestError(f"after: {query.after[:80]!r} is no item of this response.", param="after")
    rest = items[ids.index(query.after) + 1 :] if query.after is not None else items
    page = rest[: query.limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return ItemList(data=page, first_id=first, last_id=last, has_more=len(page) < len(rest))


def _store(request: Request, tenant: str) -> ResponseStore:
    return ResponseStore(state_of(request).store.records, tenant)

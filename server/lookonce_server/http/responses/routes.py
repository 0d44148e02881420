"""`/v1/responses`: questions and answers that the next question can go on from. A tenant meets its own only."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.bodies.json_body import JsonRoute
from lookonce_server.http.chat_request import parse_chat
from lookonce_server.http.generation import Asked, answered
from lookonce_server.http.responses import response_store as keeping
from lookonce_server.http.responses.chat_request import FieldNames, as_chat, image_of, image_to_keep, json_schema_of
from lookonce_server.http.responses.objects import Deleted, ItemList, ResponseObject
from lookonce_server.http.responses.request import ResponseRequest
from lookonce_server.http.responses.response_format import ResponseReply, draft_of, error_event
from lookonce_server.http.responses.response_store import KeptResponse
from lookonce_server.http.schemas.errors import errors
from lookonce_server.http.state import AppState, Tenant, check_model, state_of

router = APIRouter(prefix="/v1/responses", route_class=JsonRoute)
_ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The response; with `stream`, its events.", "content": {"text/event-stream": {}}}
}


@router.post("", response_model=ResponseObject, responses=_ANSWERED | errors(400, 404, 415, 503))
async def create(body: ResponseRequest, request: Request, tenant: Tenant) -> Response:
    """Answer a question, about an image or not, going on from a response before it or not."""
    asking = _Asking(body, state_of(request), tenant)
    try:
        return await answered(
            request, asking.state, asking.ask(), stream=bool(body.stream), early_error=asking.error_event
        )
    except InvalidRequestError as error:
        error.param = asking.param_of(error)
        raise


@router.get("/{response_id}", response_model=ResponseObject, responses=errors(400, 404, 503))
async def get(response_id: str, request: Request, tenant: Tenant) -> dict[str, Any]:
    """A response that was kept, without log-probabilities. Counts as use."""
    _refuse_others(request)
    return (await _find(response_id, request, tenant)).response.shown()


@router.delete("/{response_id}", response_model=Deleted, responses=errors(400, 404, 503))
async def delete(response_id: str, request: Request, tenant: Tenant) -> Deleted:
    """Forget a response. Those that went on from it stay, with all that was said before."""
    await keeping.forget(state_of(request).store.records, tenant, response_id)
    return Deleted(id=response_id)


@router.get("/{response_id}/input_items", response_model=ItemList, responses=errors(400, 404, 503))
async def input_items(
    response_id: str,
    request: Request,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> ItemList:
    """The messages that a response answered, those of the responses before it included. Counts as use."""
    _refuse_others(request, "limit", "order", "after")
    items = (await _find(response_id, request, tenant)).shown_items()
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise InvalidRequestError(f"{after[:80]!r} is no item of this response.", param="after")
    rest = items[ids.index(after) + 1 :] if after is not None else items
    shown = rest[:limit]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return ItemList(data=shown, first_id=first, last_id=last, has_more=len(shown) < len(rest))


class _Asking:
    """One request on its way to its answer."""

    def __init__(self, body: ResponseRequest, state: AppState, tenant: str) -> None:
        self.state = state
        self._body = body
        self._tenant = tenant
        self._places = FieldNames(())

    async def ask(self) -> Asked:
        """Ask the question.

        Raises:
            InvalidRequestError: it cannot be asked like this.
            ResponseNotFoundError: there is no response to go on from.
            ContextNotFoundError: there is no context of the conversation's image any more, and it was not sent again.
            StoreUnavailableError: the store that has one of them does not answer.
        """
        body, state = self._body, self.state
        self._check()
        draft = draft_of(body, state.served_name, store=state.settings.store_responses and body.store is not False)
        options = body.lookonce.options()
        previous = None
        if body.previous_response_id is not None:
            previous = await keeping.find(
                state.store.records,
                self._tenant,
                body.previous_response_id,
                param="previous_response_id",
            )
        chat, items, self._places = as_chat(body, previous)
        if draft.store:
            keeping.check_size(draft, items)
        image = await image_of(body, previous, state.images)
        question = parse_chat(chat, state.settings.max_answer_tokens, state.settings.describe_prompt)
        sampling = replace(question.sampling, json_schema=json_schema_of(body))
        session = await state.sessions.ask(question.conversation, image, sampling, tenant=self._tenant, options=options)
        kept_image = await image_to_keep(image, session.lookup, bypass=options.bypass, previous=previous)

        async def keep(response: ResponseObject) -> bool:
            record = KeptResponse(response=response, items=items, image=kept_image)
            return await keeping.keep(state.store.records, self._tenant, record, ttl=options.ttl)

        token_text = state.engine.token_text if body.wants_logprobs else None
        return Asked(session, lambda accounts: ResponseReply(draft, accounts, token_text=token_text, keep=keep))

    def param_of(self, error: InvalidRequestError) -> str | None:
        """The field of this request that an error is about."""
        return self._places.of(error.param)

    def error_event(self, error: dict[str, Any]) -> str:
        """An error's body as the one event of a response that never began."""
        found = error["error"]
        return error_event({"error": found | {"param": self._places.of(found["param"])}})

    def _check(self) -> None:
        body = self._body
        check_model(body.model, self.state)
        if body.stream_options is not None and not body.stream:
            raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")
        if body.top_logprobs and not body.wants_logprobs:
            raise InvalidRequestError(
                "top_logprobs needs include=['message.output_text.logprobs'].", param="top_logprobs"
            )
        if not self.state.settings.store_responses:
            for name in ("previous_response_id", "store"):
                if getattr(body, name):
                    raise InvalidRequestError(f"{name} is not supported: this server keeps no responses.", param=name)


async def _find(response_id: str, request: Request, tenant: str) -> KeptResponse:
    return await keeping.find(state_of(request).store.records, tenant, response_id, param=None)


def _refuse_others(request: Request, *accepted: str) -> None:
    for name in request.query_params:
        if name not in accepted:
            raise InvalidRequestError(f"{name} is not supported by this server.", param=name)

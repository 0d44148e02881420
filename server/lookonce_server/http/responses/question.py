"""Ask the question of a response's request, as a chat."""

import re

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.chat_request import check_request, parse_chat
from lookonce_server.http.responses.images import ConversationImages
from lookonce_server.http.responses.objects import ResponseObject
from lookonce_server.http.responses.request import ResponseRequest
from lookonce_server.http.responses.response_store import KeptItem, KeptResponse, ResponseStore, check_size
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.messages import (
    MAX_MESSAGES,
    FilePart,
    ImagePart,
    ImageUrl,
    Message,
    RefusalPart,
    TextPart,
    VideoPart,
)
from lookonce_server.http.schemas.response_format import ChatSchemaFormat, ResponseSchemaFormat
from lookonce_server.http.state import AppState
from lookonce_server.sessions.answer_passes import Session

_MESSAGE = re.compile(r"messages\[(\d+)\](.*)")


class ResponseQuestion:
    """The question of a response's request.

    Args:
        request: the client's request.
        draft: the response without its answer.
        state: the server's parts.
        tenant: whose request it is.
    """

    def __init__(self, request: ResponseRequest, draft: ResponseObject, state: AppState, tenant: str) -> None:
        self._request = request
        self._draft = draft
        self._state = state
        self._tenant = tenant
        self._store = ResponseStore(state.store.records, tenant)
        # Known once the question is asked:
        self._items: list[KeptItem] = []  # the conversation, without the instructions
        self._places: list[str] = []  # of each of the chat's messages in the request
        self._images = ConversationImages()

    async def ask(self) -> Session:
        """Ask the question.

        Raises:
            InvalidRequestError: the request is wrong, or its conversation is too long.
            ResponseNotFoundError: there is no response with the previous id.
            ContextNotFoundError: an image of the conversation is not sent again, and its context is gone.
            StoreUnavailableError: the store that has one of them does not answer.
        """
        request, state = self._request, self._state
        self._check()
        previous = None
        if request.previous_response_id is not None:
            previous = await self._store.find(request.previous_response_id, param="previous_response_id")
            self._images = ConversationImages(previous)
        before = previous.conversation if previous else []
        self._check_length(before)
        numbers = await self._images.read(request, state, self._tenant)
        self._items = [*before, *(KeptItem.of(item, numbers) for item in request.messages.values())]
        chat = self._chat(len(before))
        if self._draft.store:
            check_size(self._kept(self._draft))
        question = parse_chat(chat, state.settings)
        session = await state.sessions.ask(
            question.conversation,
            self._images.sources(question.options),
            question.sampling,
            tenant=self._tenant,
            options=question.options,
        )
        self._images.take(session, bypass=question.options.bypass)
        return session

    async def keep(self, response: ResponseObject) -> bool:
        """Keep a response with its conversation; return whether the store has it."""
        return await self._store.keep(self._kept(response), ttl=self._request.context_options().ttl)

    def field(self, chat_field: str | None) -> str | None:
        """Name a chat's field as the request does; see `AnswerFormat.field`."""
        if chat_field is None or chat_field == "messages":
            return chat_field and "input"
        if chat_field.startswith("response_format"):
            return "text.format"
        match = _MESSAGE.fullmatch(chat_field)
        if match is None:
            return chat_field
        place = self._places[int(match[1])]
        return place + match[2] if place.startswith("input[") else place

    def _check(self) -> None:
        request = self._request
        check_request(request, self._state)
        if not request.messages:
            raise InvalidRequestError("input: it has reasoning alone; the last item must be the user's.", param="input")
        if request.top_logprobs and not request.wants_logprobs:
            raise InvalidRequestError(
                "top_logprobs needs include=['message.output_text.logprobs'].", param="top_logprobs"
            )
        if not self._state.settings.store_responses:
            for name in ("previous_response_id", "store"):
                if getattr(request, name):
                    raise InvalidRequestError(f"{name} is not supported: this server keeps no responses.", param=name)

    def _check_length(self, before: list[KeptItem]) -> None:
        """Reject a conversation with too many messages."""
        count = len(before) + len(self._request.messages) + (self._request.instructions is not None)
        if count > MAX_MESSAGES:
            raise InvalidRequestError(
                f"The conversation has {count} messages; at most {MAX_MESSAGES} are accepted. Begin a new one.",
                param="input",
            )

    def _chat(self, num_before: int) -> ChatRequest:
        """Return the question as a chat.

        Args:
            num_before: number of items that come from the response before.
        """
        request = self._request
        instructions = [] if request.instructions is None else [Message(role="system", content=request.instructions)]
        before = ["instructions"] * len(instructions) + ["previous_response_id"] * num_before
        self._places = [*before, *request.messages]
        text_format = request.text.format
        return ChatRequest(
            model=request.model,
            messages=[*instructions, *map(_message, self._items)],
            max_completion_tokens=request.max_output_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            logprobs=request.wants_logprobs,
            top_logprobs=request.top_logprobs if request.wants_logprobs else None,
            response_format=ChatSchemaFormat(type="json_schema", json_schema=text_format)
            if isinstance(text_format, ResponseSchemaFormat)
            else text_format,
            lookonce=request.lookonce,
            prompt_cache_options=request.prompt_cache_options,
            prompt_cache_retention=request.prompt_cache_retention,
        )

    def _kept(self, response: ResponseObject) -> KeptResponse:
        return KeptResponse(response=response, items=self._items, images=self._images.kept)


def _message(item: KeptItem) -> Message:
    """Return an item as a chat's message; the numbers of its images stand for their URLs."""
    parts: list[TextPart | ImagePart | VideoPart | FilePart | RefusalPart] = [
        TextPart(type="text", text=part.text)
        if part.image is None
        else ImagePart(type="image_url", image_url=ImageUrl(url=str(part.image)))
        for part in item.parts
    ]
    return Message(role=item.role, content=parts or "")

"""Ask the question of a response's request, as a chat."""

import asyncio
import re

from lookonce_cache import digest
from lookonce_server.errors import ImageNotKeptError, InvalidRequestError
from lookonce_server.http.chat_request import ImageField, check_one_image, check_request, parse_chat
from lookonce_server.http.responses.objects import ResponseObject
from lookonce_server.http.responses.request import InputImage, ResponseRequest, parts_of
from lookonce_server.http.responses.response_store import KeptImage, KeptItem, KeptResponse, ResponseStore, check_size
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.messages import MAX_MESSAGES, ImagePart, ImageUrl, Message, RefusalPart, TextPart
from lookonce_server.http.schemas.response_format import ChatSchemaFormat, ResponseSchemaFormat
from lookonce_server.http.state import AppState
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource
from lookonce_server.sessions.sessions import Lookup, Session

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
        self._previous: KeptResponse | None = None
        self._items: list[KeptItem] = []  # the conversation, without the instructions
        self._places: list[str] = []  # of each of the chat's messages in the request
        self._image: KeptImage | None = None

    async def ask(self) -> Session:
        """Ask the question.

        Raises:
            InvalidRequestError: the request is wrong, or its conversation is too long.
            ResponseNotFoundError: there is no response with the previous id.
            ContextNotFoundError: the conversation's image is not sent again, and its context is gone.
            StoreUnavailableError: the store that has one of them does not answer.
        """
        request, state = self._request, self._state
        self._check()
        if request.previous_response_id is not None:
            self._previous = await self._store.find(request.previous_response_id, param="previous_response_id")
        chat = self._chat()
        if self._draft.store:
            check_size(self._draft, self._items)
        image = await self._read_image()
        image_digest = await self._digest(image)
        question = parse_chat(chat, state.settings.max_answer_tokens, state.settings.describe_prompt)
        session = await state.sessions.ask(
            question.conversation, image, question.sampling, tenant=self._tenant, options=question.options
        )
        if image is not None:
            self._image = self._kept_image(session.lookup, image_digest, bypass=question.options.bypass)
        return session

    async def keep(self, response: ResponseObject) -> bool:
        """Keep a response with its conversation; return whether the store has it."""
        kept = KeptResponse(response=response, items=self._items, image=self._image)
        return await self._store.keep(kept, ttl=self._request.lookonce.ttl)

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
        if request.top_logprobs and not request.wants_logprobs:
            raise InvalidRequestError(
                "top_logprobs needs include=['message.output_text.logprobs'].", param="top_logprobs"
            )
        if not self._state.settings.store_responses:
            for name in ("previous_response_id", "store"):
                if getattr(request, name):
                    raise InvalidRequestError(f"{name} is not supported: this server keeps no responses.", param=name)

    def _chat(self) -> ChatRequest:
        """Return the question as a chat."""
        request = self._request
        before = self._previous.conversation if self._previous else []
        new = [KeptItem.of(item) for item in request.items]
        self._items = [*before, *new]
        instructions = [] if request.instructions is None else [Message(role="system", content=request.instructions)]
        if (count := len(instructions) + len(self._items)) > MAX_MESSAGES:
            raise InvalidRequestError(
                f"The conversation has {count} messages; at most {MAX_MESSAGES} are accepted. Begin a new one.",
                param="input",
            )
        inputs = ["input"] if isinstance(request.input, str) else [f"input[{i}]" for i in range(len(new))]
        self._places = ["instructions"] * len(instructions) + ["previous_response_id"] * len(before) + inputs
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
        )

    async def _read_image(self) -> ImageSource | None:
        """Return the conversation's image, or the context of the one sent before.

        Raises:
            InvalidImageError: it cannot be read.
            InvalidRequestError: it is not the conversation's first.
            ImageNotKeptError: it is not sent, and it has no context.
        """
        images = self._state.images
        sent = _sent_images(self._request)
        kept = self._previous_image
        if self._previous is None or kept is None:
            check_one_image(sent)
            return await images.read(*sent[0]) if sent else None
        source: ImageSource | None = None
        for field in sent:
            source = await images.read(*field)
            if not await _is_same(source, kept):
                raise InvalidRequestError(
                    "It is another image than that of the response it goes on from; this server answers about one image"
                    " a conversation. Ask about it without previous_response_id.",
                    param=field.param,
                )
        if source is not None:
            return source
        if self._request.lookonce.cache == "bypass":
            raise InvalidRequestError("cache 'bypass' needs the image itself: send it again.", param="lookonce.cache")
        if kept.context_id is None:
            raise ImageNotKeptError(self._previous.response.id)
        return ContextReference(kept.context_id)

    async def _digest(self, image: ImageSource | None) -> str | None:
        """Return the digest of the image's bytes, where it is known before its context is."""
        if self._previous_image and self._previous_image.digest:
            return self._previous_image.digest
        return await asyncio.to_thread(digest, image.data) if isinstance(image, ImageBytes) else None

    def _kept_image(self, lookup: Lookup, image_digest: str | None, *, bypass: bool) -> KeptImage:
        """Return the record of the question's image."""
        if image_digest is None and lookup.context is not None:
            image_digest = lookup.context.identity.image_digest
        before = self._previous_image.context_id if self._previous_image else None
        return KeptImage(context_id=before if bypass else lookup.context_id, digest=image_digest)

    @property
    def _previous_image(self) -> KeptImage | None:
        return self._previous.image if self._previous else None


async def _is_same(source: ImageSource, kept: KeptImage) -> bool:
    if isinstance(source, ImageBytes):
        return await asyncio.to_thread(digest, source.data) == kept.digest
    return source.context_id == kept.context_id


def _sent_images(request: ResponseRequest) -> list[ImageField]:
    return [
        ImageField(part.image_url, f"input[{i}].content[{j}].image_url")
        for i, item in enumerate(request.items)
        for j, part in enumerate(parts_of(item))
        if isinstance(part, InputImage)
    ]


def _message(item: KeptItem) -> Message:
    """Return an item as a chat's message; its image is read by `_read_image`."""
    parts: list[TextPart | ImagePart | RefusalPart] = [
        ImagePart(type="image_url", image_url=ImageUrl(url="lookonce:"))
        if part.type == "input_image"
        else TextPart(type="text", text=part.text)
        for part in item.parts
    ]
    return Message(role=item.role, content=parts or "")

"""From a response's request to a question: it is a chat, with the conversation before it in front."""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple

from lookonce_cache import digest
from lookonce_server.errors import ImageNotKeptError, InvalidRequestError
from lookonce_server.http.chat_request import ImageField
from lookonce_server.http.responses.objects import FreeText, JsonSchema
from lookonce_server.http.responses.request import InputImage, ResponseRequest, parts_of
from lookonce_server.http.responses.response_store import KeptImage, KeptItem, KeptResponse
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.messages import MOST_MESSAGES, ImagePart, ImageUrl, Message, RefusalPart, TextPart
from lookonce_server.http.schemas.response_format import ANY_OBJECT, schema_text
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource
from lookonce_server.sessions.sessions import Lookup

_MESSAGE = re.compile(r"messages\[(\d+)\](.*)")


class FieldNames:
    """Where what a chat calls its messages stands in a response's request, for the `param` of errors.

    Args:
        places: of each message.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self._places = places

    def of(self, param: str | None) -> str | None:
        """A chat's field by the name it has here."""
        if param is None or param == "messages":
            return param and "input"
        if param.startswith("response_format"):
            return "text.format"
        match = _MESSAGE.fullmatch(param)
        if match is None:
            return param
        place = self._places[int(match[1])]
        return place + match[2] if place.startswith("input[") else place


class AsChat(NamedTuple):
    """What a chat would have to ask for the same answer."""

    chat: ChatRequest
    items: list[KeptItem]  # the conversation, without the instructions
    places: FieldNames


def as_chat(request: ResponseRequest, previous: KeptResponse | None) -> AsChat:
    """A request as a chat: its instructions, the conversation before it, and its input.

    Args:
        request: what came.
        previous: the response that it goes on from.

    Raises:
        InvalidRequestError: the conversation has become too long.
    """
    before = previous.conversation if previous else []
    new = [KeptItem.of(item) for item in request.items]
    items = [*before, *new]
    instructions = [] if request.instructions is None else [Message(role="system", content=request.instructions)]
    if (count := len(instructions) + len(items)) > MOST_MESSAGES:
        raise InvalidRequestError(
            f"The conversation has {count} messages; at most {MOST_MESSAGES} are taken. Begin a new one.", param="input"
        )
    asked_in = ["input"] if isinstance(request.input, str) else [f"input[{i}]" for i in range(len(new))]
    places = ["instructions"] * len(instructions) + ["previous_response_id"] * len(before) + asked_in
    chat = ChatRequest(
        model=request.model,
        messages=[*instructions, *map(_as_message, items)],
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        logprobs=request.wants_logprobs,
        top_logprobs=request.top_logprobs if request.wants_logprobs else None,
        lookonce=request.lookonce,
    )
    return AsChat(chat, items, FieldNames(places))


def json_schema_of(request: ResponseRequest) -> str | None:
    """The JSON Schema that the answer must fit, as JSON text; None for free text."""
    wanted = request.text.format
    if isinstance(wanted, FreeText):
        return None
    return schema_text(wanted.schema_) if isinstance(wanted, JsonSchema) else ANY_OBJECT


async def image_of(request: ResponseRequest, previous: KeptResponse | None, images: Images) -> ImageSource | None:
    """The conversation's image: as it was sent, or the context of the one that was sent before.

    Raises:
        InvalidImageError: it cannot be read.
        InvalidRequestError: it is not the conversation's first.
        ImageNotKeptError: it is not sent, and no context of it was made.
    """
    sent = _sent_images(request)
    kept = previous.image if previous else None
    if previous is None or kept is None:
        if len(urls := {field.url for field in sent}) > 1:
            raise InvalidRequestError(
                f"The input has {len(urls)} different images; this server answers about one image at a time.",
                param=next(field.param for field in sent if field.url != sent[0].url),
            )
        return await images.read(*sent[0]) if sent else None
    source: ImageSource | None = None
    for field in sent:
        source = await images.read(*field)
        if not await _is_same(source, kept):
            raise InvalidRequestError(
                "It is another image than that of the response it goes on from; this server answers about one image a"
                " conversation. Ask about it without previous_response_id.",
                param=field.param,
            )
    if source is not None:
        return source
    if request.lookonce.cache == "bypass":
        raise InvalidRequestError("cache 'bypass' wants the image itself: send it again.", param="lookonce.cache")
    if kept.context_id is None:
        raise ImageNotKeptError(previous.response.id)
    return ContextReference(kept.context_id)


async def image_to_keep(
    source: ImageSource | None, lookup: Lookup, *, bypass: bool, previous: KeptResponse | None
) -> KeptImage | None:
    """What is kept of the image that was asked about."""
    if source is None:
        return None
    kept = previous.image if previous and previous.image else KeptImage(context_id=None, digest=None)
    if kept.digest is None and isinstance(source, ImageBytes):
        kept = kept.model_copy(update={"digest": await asyncio.to_thread(digest, source.data)})
    elif kept.digest is None and lookup.context is not None:
        kept = kept.model_copy(update={"digest": lookup.context.identity.image_digest})
    return kept if bypass else kept.model_copy(update={"context_id": lookup.context_id})


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


def _as_message(item: KeptItem) -> Message:
    """The message of a chat. Where its image comes from is settled by `image_of`."""
    parts: list[TextPart | ImagePart | RefusalPart] = [
        ImagePart(type="image_url", image_url=ImageUrl(url="lookonce:"))
        if part.type == "input_image"
        else TextPart(type="text", text=part.text)
        for part in item.parts
    ]
    return Message(role=item.role, content=parts or "")

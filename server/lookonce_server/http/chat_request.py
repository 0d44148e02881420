"""Parse a chat request into a conversation, its images and the sampling."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from lookonce_server.concurrency import gather_in_order
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Role, Turn
from lookonce_server.errors import InvalidImageError, InvalidRequestError
from lookonce_server.http.schemas.chat import ChatRequest, GenerationRequest
from lookonce_server.http.schemas.messages import ImagePart, Message, RefusalPart, TextPart
from lookonce_server.http.state import AppState, check_model
from lookonce_server.images.sources import ImageBytes, ImageSource
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.settings import Settings

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ImageField(NamedTuple):
    """An image's URL, and its field in the request."""

    url: str
    param: str


class Question(NamedTuple):
    """A parsed chat request."""

    conversation: Conversation
    images: tuple[ImageField, ...]  # by number
    sampling: Sampling
    options: ContextOptions
    n: int  # number of answers


def check_request(request: GenerationRequest, state: AppState) -> None:
    """Reject another model than the one served, and options of no stream."""
    check_model(request.model, state)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options needs stream=true.", param="stream_options")


def check_logit_bias(request: ChatRequest, vocabulary: int) -> None:
    """Reject biases of tokens that the model does not have."""
    for token in request.logit_bias or ():
        if int(token) >= vocabulary:
            raise InvalidRequestError(
                f"logit_bias.{token}: the model has no such token; its ids are 0 to {vocabulary - 1}.",
                param=f"logit_bias.{token}",
            )


def parse_chat(request: ChatRequest, settings: Settings) -> Question:
    """Parse a chat request.

    Args:
        request: the client's request, validated.
        settings: bound its images and its answer, and have the question where the last message is images alone.

    Raises:
        InvalidRequestError: too many images, no question at the end, or fields that contradict each other.
    """
    options = request.lookonce.options()
    conversation, images = read_messages(request.messages, options.describe_prompt or settings.describe_prompt)
    check_image_count([image.param for image in images], settings)
    return Question(conversation, images, _sampling(request, settings.max_answer_tokens), options, request.n or 1)


def check_image_count(params: Sequence[str], settings: Settings) -> None:
    """Reject too many different images.

    Args:
        params: the field of each.
        settings: have the limit.
    """
    limit = settings.max_images
    if len(params) > limit:
        raise InvalidRequestError(
            f"The conversation has {len(params)} different images; this server accepts at most {limit}.",
            param=params[limit],
        )


async def read_images(fields: Sequence[ImageField], state: AppState) -> list[ImageSource]:
    """Read images at once; together they may have as many bytes as a request's body.

    Raises:
        InvalidImageError: one cannot be read; of several, the first in order.
        OverloadedError: too many images are being fetched.
    """
    limit, size = state.settings.max_body_bytes, 0

    async def read(field: ImageField) -> ImageSource:
        nonlocal size
        source = await state.images.read(*field)
        size += len(source.data) if isinstance(source, ImageBytes) else 0
        if size > limit:
            del source  # the error's traceback would hold it until the others have been read
            raise InvalidImageError(f"The images have more bytes together than the limit of {limit}.", param="messages")
        return source

    return await gather_in_order(map(read, fields))


def read_messages(messages: list[Message], describe_prompt: str) -> tuple[Conversation, tuple[ImageField, ...]]:
    """Return the conversation and its images, by number.

    Images of equal URLs are one. A last message that is images alone asks the describe prompt.

    Raises:
        InvalidRequestError: a part that its role may not have, or no question at the end.
    """
    last = _last_question(messages)
    for i, message in enumerate(messages):
        _check_parts(message, f"messages[{i}]")
    images: dict[str, ImageField] = {}
    for field in _image_fields(messages):
        images.setdefault(field.url, field)
    numbers = {url: number for number, url in enumerate(images)}
    turns = [Turn(_ROLES[message.role], tuple(_parts(message, numbers)), message.name) for message in messages]
    if turns[last].images and not turns[last].text.strip():
        turns[last] = replace(turns[last], parts=(*turns[last].images, describe_prompt))
    return Conversation(tuple(turns)), tuple(images.values())


def _image_fields(messages: list[Message]) -> Iterator[ImageField]:
    """Yield each image of the messages, repeated ones too."""
    for i, message in enumerate(messages):
        for j, part in enumerate(message.parts):
            if isinstance(part, ImagePart):
                yield ImageField(part.image_url.url, f"messages[{i}].content[{j}].image_url.url")


def _last_question(messages: list[Message]) -> int:
    """Return the index of the question: the last message, but for system messages."""
    indices = [i for i, message in enumerate(messages) if message.role in ("user", "assistant")]
    last = indices[-1] if indices else len(messages) - 1
    if messages[last].role != "user":
        raise InvalidRequestError(
            f"The last message, but for system messages, must be the user's, not {messages[last].role!r}.",
            param=f"messages[{last}].role",
        )
    return last


def _check_parts(message: Message, place: str) -> None:
    """Reject a message with parts that its role may not have, or without content."""
    role = message.role
    if role != "assistant":
        if message.content is None:
            raise _invalid(f"{place}.content", "Field required")
        if message.refusal is not None:
            raise _invalid(f"{place}.refusal", f"only assistant messages may have one, not {role!r}")
        if extras := message.extras:
            raise _invalid(f"{place}.{extras[0]}", f"only assistant messages may have it, not {role!r}")
    for i, part in enumerate(message.content if isinstance(message.content, list) else []):
        if isinstance(part, ImagePart) and role != "user":
            raise _invalid(f"{place}.content[{i}].type", f"only user messages may have images, not {role!r}")
        if isinstance(part, RefusalPart) and role != "assistant":
            raise _invalid(f"{place}.content[{i}].type", f"only assistant messages may have a refusal, not {role!r}")


def _invalid(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {why}.", param=param)


def _parts(message: Message, numbers: Mapping[str, int]) -> Iterator[str | int]:
    """Yield the parts of a turn: numbers of images, and between them texts, adjacent ones joined."""
    for is_image, parts in groupby(message.parts, lambda part: isinstance(part, ImagePart)):
        if is_image:
            yield from (numbers[part.image_url.url] for part in parts if isinstance(part, ImagePart))
        elif text := "\n".join(filter(None, map(_text, parts))):
            yield text


def _text(part: TextPart | ImagePart | RefusalPart) -> str:
    return part.refusal if isinstance(part, RefusalPart) else getattr(part, "text", "")


def _sampling(request: ChatRequest, max_answer_tokens: int) -> Sampling:
    max_tokens = request.max_completion_tokens or request.max_tokens or max_answer_tokens
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs=true.", param="top_logprobs")
    return Sampling(
        max_tokens=min(max_tokens, max_answer_tokens),
        temperature=0.0 if request.top_p == 0 else request.temperature or 0.0,  # of no share the likeliest is left
        top_p=request.top_p or 1.0,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        seed=request.seed,
        stop=(request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ()),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=tuple((int(token), bias) for token, bias in (request.logit_bias or {}).items()),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        json_schema=request.response_format.schema_text if request.response_format else None,
    )

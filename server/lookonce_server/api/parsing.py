"""From a request to what sessions understand."""

import re
from typing import NamedTuple

from lookonce_server.api.schemas import ChatRequest, ImagePart, Message
from lookonce_server.contexts import ImageBytes
from lookonce_server.conversation import Conversation, Role, Turn
from lookonce_server.engines.base import Sampling
from lookonce_server.errors import InvalidImageError, InvalidRequestError
from lookonce_server.images import ImageLimits, read_data_url
from lookonce_server.sessions import ContextReference, ImageSource

_SCHEME = "lookonce:"
_ID = re.compile(r"[0-9a-f]{64}")
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Question(NamedTuple):
    """A chat request, understood."""

    conversation: Conversation
    image: ImageSource | None
    sampling: Sampling
    n: int  # answers wanted


def parse_chat(request: ChatRequest, limits: ImageLimits, max_answer_tokens: int) -> Question:
    """Understand a chat request.

    Raises:
        InvalidRequestError: more than one image, no question at the end, or fields that do not go together.
        InvalidImageError: the image's URL cannot be read.
    """
    if request.messages[-1].role != "user":
        raise InvalidRequestError(
            f"The last message must be the user's, not {request.messages[-1].role!r}.",
            param=f"messages[{len(request.messages) - 1}].role",
        )
    turns, urls = [], []
    for i, message in enumerate(request.messages):
        found = _image_urls(message, f"messages[{i}]")
        turns.append(Turn(_ROLES[message.role], _text(message), has_image=bool(found)))
        urls += found
    if len(urls) > 1:
        raise InvalidRequestError(
            f"The conversation has {len(urls)} images; this server answers about one image at a time.", param=urls[1][1]
        )
    image = read_image(*urls[0], limits) if urls else None
    return Question(Conversation(tuple(turns)), image, _sampling(request, max_answer_tokens), request.n or 1)


def read_image(url: str, param: str, limits: ImageLimits) -> ImageSource:
    """The image, or the context, that a URL stands for.

    Raises:
        InvalidImageError: neither a base64 data: URL nor `lookonce:` with a context id.
    """
    if not url.startswith(_SCHEME):
        return ImageBytes(read_data_url(url, limits, param), param)
    context_id = url.removeprefix(_SCHEME)
    if not _ID.fullmatch(context_id):
        raise InvalidImageError(f"{context_id[:80]!r} is no context id; one has 64 hex digits.", param=param)
    return ContextReference(context_id)


def _image_urls(message: Message, place: str) -> list[tuple[str, str]]:
    """The image URLs of a message, each with the field it stands in."""
    if isinstance(message.content, str):
        return []
    found = [
        (p.image_url.url, f"{place}.content[{i}].image_url.url")
        for i, p in enumerate(message.content)
        if isinstance(p, ImagePart)
    ]
    if found and message.role != "user":
        raise InvalidRequestError(f"Only user messages may have images, not {message.role!r}.", param=found[0][1])
    return found


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if not isinstance(part, ImagePart))


def _sampling(request: ChatRequest, max_answer_tokens: int) -> Sampling:
    wanted = request.max_completion_tokens or request.max_tokens or max_answer_tokens
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    if "" in stop:
        raise InvalidRequestError("A stop text must not be empty.", param="stop")
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs=true.", param="top_logprobs")
    return Sampling(
        max_tokens=min(wanted, max_answer_tokens),
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        stop=stop,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )

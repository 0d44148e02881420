"""From a request to what sessions understand."""

from typing import NamedTuple

from lookonce_server.api.schemas import ChatRequest, ImagePart, Message
from lookonce_server.conversation import Conversation, Role, Turn
from lookonce_server.engines.base import Sampling
from lookonce_server.errors import InvalidRequestError
from lookonce_server.options import ContextOptions

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ImageField(NamedTuple):
    """An image's URL, and the field of the request it stands in."""

    url: str
    param: str


class Question(NamedTuple):
    """A chat request, understood."""

    conversation: Conversation
    image: ImageField | None
    sampling: Sampling
    options: ContextOptions
    n: int  # answers wanted


def parse_chat(request: ChatRequest, max_answer_tokens: int) -> Question:
    """Understand a chat request.

    Raises:
        InvalidRequestError: more than one image, no question at the end, or fields that do not go together.
    """
    if request.messages[-1].role != "user":
        raise InvalidRequestError(
            f"The last message must be the user's, not {request.messages[-1].role!r}.",
            param=f"messages[{len(request.messages) - 1}].role",
        )
    turns: list[Turn] = []
    images: list[ImageField] = []
    for i, message in enumerate(request.messages):
        found = _image_urls(message, f"messages[{i}]")
        turns.append(Turn(_ROLES[message.role], _text(message), has_image=bool(found)))
        images += found
    if len(images) > 1:
        raise InvalidRequestError(
            f"The conversation has {len(images)} images; this server answers about one image at a time.",
            param=images[1].param,
        )
    image = images[0] if images else None
    return Question(
        Conversation(tuple(turns)),
        image,
        _sampling(request, max_answer_tokens),
        request.lookonce.options(),
        request.n or 1,
    )


def _image_urls(message: Message, place: str) -> list[ImageField]:
    """The image URLs of a message, each with the field it stands in."""
    if isinstance(message.content, str):
        return []
    found = [
        ImageField(p.image_url.url, f"{place}.content[{i}].image_url.url")
        for i, p in enumerate(message.content)
        if isinstance(p, ImagePart)
    ]
    if found and message.role != "user":
        raise InvalidRequestError(f"Only user messages may have images, not {message.role!r}.", param=found[0].param)
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

"""From a request to what sessions understand."""

from dataclasses import replace
from typing import NamedTuple

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Role, Turn
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.http.schemas.messages import ImagePart, Message, RefusalPart, TextPart
from lookonce_server.sessions.context_options import ContextOptions

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


def parse_chat(request: ChatRequest, max_answer_tokens: int, describe_prompt: str) -> Question:
    """Understand a chat request.

    Args:
        request: OpenAI's, checked.
        max_answer_tokens: most tokens of an answer, and the default.
        describe_prompt: what is asked where the last message is the image alone.

    Raises:
        InvalidRequestError: different images, no question at the end, or fields that do not go together.
    """
    options = request.lookonce.options() if request.lookonce else ContextOptions()
    conversation, image = read_messages(request.messages, options.describe_prompt or describe_prompt)
    return Question(conversation, image, _sampling(request, max_answer_tokens), options, request.n or 1)


def read_messages(messages: list[Message], describe_prompt: str) -> tuple[Conversation, ImageField | None]:
    """The conversation, and its image where it has one; sent again in later messages, it stands where it came first.

    A last message that is the image alone asks the describe prompt.

    Raises:
        InvalidRequestError: different images, or parts where the role has none, or no question at the end.
    """
    asked = [i for i, message in enumerate(messages) if message.role in ("user", "assistant")]
    if not asked or messages[asked[-1]].role != "user":
        last = asked[-1] if asked else len(messages) - 1
        raise InvalidRequestError(
            f"The last message, but for system messages, must be the user's, not {messages[last].role!r}.",
            param=f"messages[{last}].role",
        )
    turns: list[Turn] = []
    images: list[ImageField] = []
    for i, message in enumerate(messages):
        _check_parts(message, f"messages[{i}]")
        found = _images(message, f"messages[{i}]")
        turns.append(_turn(message, found[0] if found and not images else None))
        images += found
    question = turns[asked[-1]]
    if _images(messages[asked[-1]], "") and not question.said.strip():
        turns[asked[-1]] = replace(question, text=describe_prompt)
    urls = {image.url for image in images}
    if len(urls) > 1:
        raise InvalidRequestError(
            f"The conversation has {len(urls)} different images; this server answers about one image at a time.",
            param=next(image.param for image in images if image.url != images[0].url),
        )
    return Conversation(tuple(turns)), images[0] if images else None


def _check_parts(message: Message, place: str) -> None:
    """Raise InvalidRequestError where a message has what its role does not have, or lacks what it needs."""
    role = message.role
    if message.content is None and role != "assistant":
        raise _refused(f"{place}.content", "Field required")
    if message.refusal is not None and role != "assistant":
        raise _refused(f"{place}.refusal", f"only assistant messages may have one, not {role!r}")
    if role != "assistant" and (extras := message.extras):
        raise _refused(f"{place}.{extras[0]}", f"only assistant messages may have it, not {role!r}")
    for i, part in enumerate(message.content if isinstance(message.content, list) else []):
        if isinstance(part, ImagePart) and role != "user":
            raise _refused(f"{place}.content[{i}].type", f"only user messages may have images, not {role!r}")
        if isinstance(part, RefusalPart) and role != "assistant":
            raise _refused(f"{place}.content[{i}].type", f"only assistant messages may have a refusal, not {role!r}")


def _refused(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {why}.", param=param)


def _images(message: Message, place: str) -> list[ImageField]:
    return [
        ImageField(part.image_url.url, f"{place}.content[{i}].image_url.url")
        for i, part in enumerate(message.parts)
        if isinstance(part, ImagePart)
    ]


def _turn(message: Message, image: ImageField | None) -> Turn:
    """A message as a turn; `image` is its first image, where that is shown here."""
    parts = message.parts
    at = next((i for i, part in enumerate(parts) if isinstance(part, ImagePart)), 0) if image else 0
    return Turn(
        _ROLES[message.role],
        _text(parts[at:]),
        has_image=image is not None,
        before_image=_text(parts[:at]),
        name=message.name,
    )


def _text(parts: list[TextPart | ImagePart | RefusalPart]) -> str:
    return "\n".join(part.said for part in parts if part.said)


def _sampling(request: ChatRequest, max_answer_tokens: int) -> Sampling:
    wanted = request.max_completion_tokens or request.max_tokens or max_answer_tokens
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs=true.", param="top_logprobs")
    return Sampling(
        max_tokens=min(wanted, max_answer_tokens),
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
        json_schema=request.response_format.json_schema_text() if request.response_format else None,
    )

"""Parse a chat request into a conversation, its image and the sampling."""

from dataclasses import replace
from typing import NamedTuple

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Role, Turn
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.schemas.chat import ChatRequest, GenerationRequest
from lookonce_server.http.schemas.messages import ImagePart, Message, RefusalPart, TextPart
from lookonce_server.http.state import AppState, check_model
from lookonce_server.sessions.context_options import ContextOptions

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ImageField(NamedTuple):
    """An image's URL, and its field in the request."""

    url: str
    param: str


class Question(NamedTuple):
    """A parsed chat request."""

    conversation: Conversation
    image: ImageField | None
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


def check_one_image(images: list[ImageField]) -> None:
    """Reject requests with different images."""
    urls = {image.url for image in images}
    if len(urls) > 1:
        raise InvalidRequestError(
            f"The request has {len(urls)} different images; this server answers about one image at a time.",
            param=next(image.param for image in images if image.url != images[0].url),
        )


def parse_chat(request: ChatRequest, max_answer_tokens: int, describe_prompt: str) -> Question:
    """Parse a chat request.

    Args:
        request: the client's request, validated.
        max_answer_tokens: most tokens of an answer, and the default.
        describe_prompt: the question where the last message is the image alone.

    Raises:
        InvalidRequestError: different images, no question at the end, or fields that contradict each other.
    """
    options = request.lookonce.options()
    conversation, image = read_messages(request.messages, options.describe_prompt or describe_prompt)
    return Question(conversation, image, _sampling(request, max_answer_tokens), options, request.n or 1)


def read_messages(messages: list[Message], describe_prompt: str) -> tuple[Conversation, ImageField | None]:
    """Return the conversation and its image.

    An image that is sent again in later messages is shown in the first of them.

    A last message that is the image alone asks the describe prompt.

    Raises:
        InvalidRequestError: different images, a part that its role may not have, or no question at the end.
    """
    last = _last_question(messages)
    turns: list[Turn] = []
    images: list[ImageField] = []
    for i, message in enumerate(messages):
        _check_parts(message, f"messages[{i}]")
        of_message = _images(message, f"messages[{i}]")
        turns.append(_turn(message, of_message[0] if of_message and not images else None))
        images += of_message
    if _images(messages[last], "") and not turns[last].text.strip():
        turns[last] = replace(turns[last], parts=(*turns[last].images, describe_prompt))
    check_one_image(images)
    return Conversation(tuple(turns)), images[0] if images else None


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


def _images(message: Message, place: str) -> list[ImageField]:
    return [
        ImageField(part.image_url.url, f"{place}.content[{i}].image_url.url")
        for i, part in enumerate(message.parts)
        if isinstance(part, ImagePart)
    ]


def _turn(message: Message, image: ImageField | None) -> Turn:
    """Return a message as a turn.

    `image` is the message's first image, if the conversation's image is shown in this turn.
    """
    parts = message.parts
    at = next((i for i, part in enumerate(parts) if isinstance(part, ImagePart)), 0) if image else 0
    content = (_text(parts[:at]), *((0,) if image else ()), _text(parts[at:]))
    return Turn(_ROLES[message.role], tuple(part for part in content if part != ""), message.name)


def _text(parts: list[TextPart | ImagePart | RefusalPart]) -> str:
    """Join the texts of parts; images have none."""
    texts = [part.refusal if isinstance(part, RefusalPart) else getattr(part, "text", "") for part in parts]
    return "\n".join(filter(None, texts))


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

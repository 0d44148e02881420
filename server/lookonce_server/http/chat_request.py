"""Parse a chat request into a conversation, its images and the sampling."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Any, NamedTuple

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Role, Turn
from lookonce_server.engines.tools import ToolCall
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.image_field import ImageField, frame_sampling
from lookonce_server.http.schemas.chat import ChatRequest, GenerationRequest
from lookonce_server.http.schemas.messages import FilePart, ImagePart, Message, RefusalPart, TextPart, VideoPart
from lookonce_server.http.state import AppState, check_model
from lookonce_server.http.tools import ToolUse, check_calls, parse_tools
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.settings import Settings
from lookonce_server.tracing.spans import annotate

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


class Question(NamedTuple):
    """A parsed chat request."""

    conversation: Conversation
    images: tuple[ImageField, ...]  # by number
    sampling: Sampling
    options: ContextOptions
    n: int  # number of answers
    tools: ToolUse = ToolUse()


def check_request(request: GenerationRequest, state: AppState) -> None:
    """Reject another model than the one served, and options of no stream."""
    annotate({"gen_ai.request.stream": bool(request.stream)})
    check_model(request.model, state)
    annotate({"gen_ai.request.model": state.served_name})
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
    options = request.context_options()
    conversation, images = read_messages(request.messages, settings, options.describe_prompt)
    check_image_count([image.param for image in images], settings)
    functions = [tool.function for tool in request.tools or ()]
    tools = parse_tools(functions, request.tool_choice, is_parallel=request.parallel_tool_calls is not False)
    sampling = _sampling(request, settings.max_answer_tokens)
    if tools.choice is not None:
        sampling = replace(sampling, tool_choice=tools.choice, json_schema=tools.schema or sampling.json_schema)
        conversation = replace(conversation, tools=tools.tools)
    return Question(conversation, images, sampling, options, request.n or 1, tools)


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


def read_messages(
    messages: list[Message], settings: Settings, describe_prompt: str | None = None
) -> tuple[Conversation, tuple[ImageField, ...]]:
    """Return the conversation and its images, by number.

    Images of equal URLs are one. A last message that is images alone asks the describe prompt.

    Args:
        messages: of the request.
        settings: have the describe prompts, and the most frames of a video.
        describe_prompt: the request's own.

    Raises:
        InvalidRequestError: too many frames, a part that its role may not have, or no question at the end.
    """
    last = _last_question(messages)
    for i, message in enumerate(messages):
        _check_parts(message, f"messages[{i}]")
    check_calls(messages)
    calls = _Calls()
    fields = [_image_fields(message, f"messages[{i}]", settings.max_frames) for i, message in enumerate(messages)]
    images: dict[Any, ImageField] = {}
    for field in chain.from_iterable(fields):
        images.setdefault(field.shown, field)
    numbers = {shown: number for number, shown in enumerate(images)}
    videos = frozenset(number for number, field in enumerate(images.values()) if field.sampling is not None)
    turns = [
        calls.turn(message, tuple(_parts(message, [numbers[field.shown] for field in shown])))
        for message, shown in zip(messages, fields, strict=True)
    ]
    if turns[last].role == "user" and turns[last].images and not turns[last].text.strip():
        is_video = videos.issuperset(turns[last].images)
        prompt = describe_prompt or (settings.describe_video_prompt if is_video else settings.describe_prompt)
        turns[last] = replace(turns[last], parts=(*turns[last].images, prompt))
    return Conversation(tuple(turns), videos), tuple(images.values())


class _Calls:
    """Give calls ids of our own: nine letters and digits, which all templates take."""

    def __init__(self) -> None:
        self._known: dict[str, ToolCall] = {}  # by the client's ids
        self._count = 0

    def turn(self, message: Message, parts: tuple[str | int, ...]) -> Turn:
        """Return a message as a turn."""
        if message.role == "tool":
            answered = self._known[message.tool_call_id or ""]
            return Turn("tool", parts, answered.name, call_id=answered.id)
        calls = []
        for call in message.tool_calls or ():
            own = ToolCall(f"call{self._count:05}", call.function.name, call.function.arguments)
            self._count += 1
            self._known[call.id] = own
            calls.append(own)
        return Turn(_ROLES[message.role], parts, message.name, tuple(calls))


def _image_fields(message: Message, place: str, max_frames: int) -> list[ImageField]:
    """List the images and videos of a message, repeated ones too."""
    fields = []
    for i, part in enumerate(message.parts):
        if isinstance(part, ImagePart | FilePart):
            fields.append(part.image_field(f"{place}.content[{i}]"))
        elif isinstance(part, VideoPart):
            sampling = frame_sampling(part, f"{place}.content[{i}].", max_frames)
            fields.append(ImageField(part.video_url.url, f"{place}.content[{i}].video_url.url", sampling))
    return fields


def _last_question(messages: list[Message]) -> int:
    """Return the index of the question: the last message, but for system messages."""
    indices = [i for i, message in enumerate(messages) if message.role in ("user", "assistant", "tool")]
    last = indices[-1] if indices else len(messages) - 1
    if messages[last].role not in ("user", "tool"):
        raise InvalidRequestError(
            f"The last message, but for system messages, must be the user's or a tool's, not {messages[last].role!r}.",
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
        if message.tool_calls:
            raise _invalid(f"{place}.tool_calls", f"only assistant messages may have calls, not {role!r}")
        if extras := message.extras:
            raise _invalid(f"{place}.{extras[0]}", f"only assistant messages may have it, not {role!r}")
    if message.tool_call_id is not None and role != "tool":
        raise _invalid(f"{place}.tool_call_id", f"only tool messages may have one, not {role!r}")
    for i, part in enumerate(message.content if isinstance(message.content, list) else []):
        if isinstance(part, ImagePart | FilePart | VideoPart) and role not in ("user", "tool"):
            noun = "videos" if isinstance(part, VideoPart) else "images"
            raise _invalid(f"{place}.content[{i}].type", f"only user and tool messages may have {noun}, not {role!r}")
        if isinstance(part, RefusalPart) and role != "assistant":
            raise _invalid(f"{place}.content[{i}].type", f"only assistant messages may have a refusal, not {role!r}")


def _invalid(param: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {why}.", param=param)


def _parts(message: Message, numbers: Iterable[int]) -> Iterator[str | int]:
    """Yield the parts of a turn: numbers of images, and between them texts, adjacent ones joined.

    Args:
        message: of the request.
        numbers: of its images and videos.
    """
    left = iter(numbers)
    for is_image, parts in groupby(message.parts, lambda part: isinstance(part, ImagePart | FilePart | VideoPart)):
        if is_image:
            yield from (next(left) for _ in parts)
        elif text := "\n".join(filter(None, map(_text, parts))):
            yield text


def _text(part: TextPart | ImagePart | FilePart | VideoPart | RefusalPart) -> str:
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

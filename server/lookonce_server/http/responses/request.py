"""`POST /v1/responses`, as OpenAI's clients send it. A field that is not honoured is refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from lookonce_server.http.responses.objects import TextConfig
from lookonce_server.http.schemas.chat import Extension
from lookonce_server.http.schemas.messages import ImageUrlText, Messages, ModelName, Parts, kind_of
from lookonce_server.http.schemas.must_be_unset import NO_TOOLS, MustBeUnset, NoTools, RequestModel


class _Strict(RequestModel):
    model_config = ConfigDict(strict=True)


class InputText(_Strict):
    """Text that the model is given."""

    type: Literal["input_text"]
    text: str


class OutputText(_Strict):
    """Text that the model has said. What else OpenAI says of such text changes nothing."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    logprobs: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    parsed: Any = None  # what openai's `parse` made of it


class InputImage(_Strict):
    """An image: a base64 `data:` URL, or `lookonce:<context id>`."""

    type: Literal["input_image"]
    # Every image is taken at the resolution the model's processor chooses.
    detail: Literal["auto", "low", "high", "original"] | None = "auto"
    image_url: ImageUrlText
    file_id: None = None  # the server keeps no files


def _given(value: Any, field: str) -> Any:
    return value.get(field) if isinstance(value, dict) else getattr(value, field, None)


_Text = Annotated[InputText, Tag("type=input_text")]
UserPart = Annotated[
    _Text | Annotated[InputImage, Tag("type=input_image")],
    Discriminator(
        kind_of,
        custom_error_type="part_type",
        custom_error_message="a user's part must have the type 'input_text' or 'input_image'",
    ),
]
AssistantPart = Annotated[
    _Text | Annotated[OutputText, Tag("type=output_text")],
    Discriminator(
        kind_of,
        custom_error_type="part_type",
        custom_error_message="an assistant's part must have the type 'output_text' or 'input_text'",
    ),
]


def _a_text(part: Any) -> Any:
    if _given(part, "type") != "input_text":
        raise PydanticCustomError("part_type", "a system message's part must have the type 'input_text'")
    return part


class _Message(_Strict):
    type: Literal["message"] = "message"
    # What a message that came from a response says of itself: taken, and changes nothing.
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class SystemMessage(_Message):
    """An instruction."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[Annotated[InputText, BeforeValidator(_a_text)]], Parts]


class UserMessage(_Message):
    """What the user asks, or has asked."""

    role: Literal["user"]
    content: str | Annotated[list[UserPart], Parts]


class AssistantMessage(_Message):
    """What the model has answered."""

    role: Literal["assistant"]
    content: str | Annotated[list[AssistantPart], Parts]


def _message_kind(item: Any) -> str:
    role = _given(item, "role")
    is_message = _given(item, "type") in (None, "message")
    return "other" if not is_message else "[system]" if role == "developer" else f"[{role}]"


Item = Annotated[
    # The brackets of tags tell them from fields, where an error names its place.
    Annotated[SystemMessage, Tag("[system]")]
    | Annotated[UserMessage, Tag("[user]")]
    | Annotated[AssistantMessage, Tag("[assistant]")],
    Discriminator(
        _message_kind,
        custom_error_type="item_kind",
        custom_error_message="an item must be a message: its type 'message', its role 'system', 'developer', 'user' or"
        " 'assistant'",
    ),
]


def parts_of(item: SystemMessage | UserMessage | AssistantMessage) -> list[InputText | OutputText | InputImage]:
    """A message's content, a text alone as one part."""
    if isinstance(item.content, str):
        return [InputText(type="input_text", text=item.content)]
    return list(item.content)


class StreamOptions(_Strict):
    """Events are not padded."""

    include_obfuscation: Annotated[Any, MustBeUnset(False)] = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Label = Annotated[str, Field(max_length=512)]


def _or_default(model: type[BaseModel]) -> BeforeValidator:
    """Null is the same as leaving the field out."""
    return BeforeValidator(lambda given: model() if given is None else given, json_schema_input_type=model | None)


class ResponseRequest(_Strict):
    """`POST /v1/responses`. Fields with one accepted value are those whose default means "not used"."""

    model: ModelName
    input: str | Annotated[list[Item], Messages]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: Annotated[TextConfig, _or_default(TextConfig)] = TextConfig()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Annotated[Any, MustBeUnset(False)] = None
    service_tier: Literal["auto", "default"] | None = None
    # Without tools these say nothing.
    tools: Annotated[Any, NoTools([], error=NO_TOOLS)] = None
    tool_choice: Annotated[Literal["auto", "none"] | None, NoTools("auto", "none")] = None
    parallel_tool_calls: bool | None = None
    # Labels for the caller's own bookkeeping: they change no answer.
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    lookonce: Annotated[Extension, _or_default(Extension)] = Extension()

    @property
    def items(self) -> list[Item]:
        """The input, a text alone as the user's message."""
        return [UserMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's log-probabilities are asked for."""
        return bool(self.include)

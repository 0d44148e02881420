"""The request of the Responses API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.image_field import ImageField
from lookonce_server.http.responses.objects import TextConfig
from lookonce_server.http.schemas.chat import GenerationRequest
from lookonce_server.http.schemas.messages import FileId, ImageUrlText, Messages, Parts, Text, by_type, field_value
from lookonce_server.http.schemas.must_be_unset import MustBeUnset, StrictModel, or_default
from lookonce_server.http.schemas.tools import CalledFunction, CallId, ChoiceMode, NamedChoice, ResponseTools


class InputText(StrictModel):
    """Text of the prompt."""

    type: Literal["input_text"]
    text: str


class OutputText(StrictModel):
    """Text that the model has generated. Its other fields change nothing."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    logprobs: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    parsed: Any = None  # what openai's `parse` made of it


class InputImage(StrictModel):
    """An image: its URL, or the id of its file."""

    type: Literal["input_image"]
    # Every image is taken at the resolution the model's processor chooses.
    detail: Literal["auto", "low", "high", "original"] | None = "auto"
    image_url: ImageUrlText | None = None
    file_id: FileId | None = None

    def image_field(self, place: str) -> ImageField:
        """Return what names the image, and its field.

        Args:
            place: of the part in the request.

        Raises:
            InvalidRequestError: nothing does, or two fields do.
        """
        return _one_of(place, {"image_url": self.image_url, "file_id": self.file_id})


class InputFile(StrictModel):
    """A file, which is an image: its id, its bytes as a `data:` URL, or its URL."""

    type: Literal["input_file"]
    detail: Literal["auto", "low", "high"] | None = None
    file_id: FileId | None = None
    file_data: ImageUrlText | None = None
    file_url: ImageUrlText | None = None
    filename: str | None = None  # a label

    def image_field(self, place: str) -> ImageField:
        """See `InputImage.image_field`."""
        names = {"file_id": self.file_id, "file_data": self.file_data, "file_url": self.file_url}
        return _one_of(place, names)


def _one_of(place: str, names: dict[str, str | None]) -> ImageField:
    """Return the one field that names an image."""
    given = [name for name, value in names.items() if value is not None]
    if len(given) != 1:
        param = f"{place}.{given[1] if given else next(iter(names))}"
        why = f"an image is named once, and {given[0]} does" if given else "Field required"
        raise InvalidRequestError(f"{param}: {why}.", param=param)
    (name,) = given
    param = f"{place}.{name}"
    return ImageField(None, param, file_id=names[name]) if name == "file_id" else ImageField(names[name], param)


_Text = Annotated[InputText, Tag("type=input_text")]
UserPart = Annotated[
    _Text | Annotated[InputImage, Tag("type=input_image")] | Annotated[InputFile, Tag("type=input_file")],
    by_type("a user's part must have the type 'input_text', 'input_image' or 'input_file'"),
]
AssistantPart = Annotated[
    _Text | Annotated[OutputText, Tag("type=output_text")],
    by_type("an assistant's part must have the type 'output_text' or 'input_text'"),
]


def _a_text(part: Any) -> Any:
    if field_value(part, "type") != "input_text":
        raise PydanticCustomError("part_type", "a system message's part must have the type 'input_text'")
    return part


class _Message(StrictModel):
    type: Literal["message"] = "message"
    # Fields of a message that came from a response: accepted, and ignored.
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class SystemMessage(_Message):
    """An instruction."""

    role: Literal["system", "developer"]
    content: Text | Annotated[list[Annotated[InputText, BeforeValidator(_a_text)]], Parts]


class UserMessage(_Message):
    """A question."""

    role: Literal["user"]
    content: Text | Annotated[list[UserPart], Parts]


class AssistantMessage(_Message):
    """An answer."""

    role: Literal["assistant"]
    content: Text | Annotated[list[AssistantPart], Parts]


class ReasoningItem(StrictModel):
    """What a model thought before an earlier answer: accepted, and ignored."""

    type: Literal["reasoning"]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    summary: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    content: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    encrypted_content: str | None = None


class FunctionCallItem(CalledFunction):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: CallId
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class FunctionOutputItem(StrictModel):
    """The result of a call, which may have images in it."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Text | Annotated[list[UserPart], Parts]
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


MessageItem = SystemMessage | UserMessage | AssistantMessage | FunctionCallItem | FunctionOutputItem


def _item_kind(item: Any) -> str:
    role, kind = field_value(item, "role"), field_value(item, "type")
    if kind in ("reasoning", "function_call", "function_call_output"):
        return f"[{kind}]"
    return "other" if kind not in (None, "message") else "[system]" if role == "developer" else f"[{role}]"


Item = Annotated[
    # The brackets of tags tell them from fields, where an error names its place.
    Annotated[SystemMessage, Tag("[system]")]
    | Annotated[UserMessage, Tag("[user]")]
    | Annotated[AssistantMessage, Tag("[assistant]")]
    | Annotated[FunctionCallItem, Tag("[function_call]")]
    | Annotated[FunctionOutputItem, Tag("[function_call_output]")]
    | Annotated[ReasoningItem, Tag("[reasoning]")],
    Discriminator(
        _item_kind,
        custom_error_type="item_kind",
        custom_error_message="an item must be a message: its type 'message', its role 'system', 'developer', 'user' or"
        " 'assistant'; or of the type 'function_call', 'function_call_output', or 'reasoning', which is ignored",
    ),
]


def parts_of(item: MessageItem) -> list[InputText | OutputText | InputImage | InputFile]:
    """Return a message's parts; a text alone is one part."""
    if isinstance(item, FunctionCallItem):
        return []
    content = item.output if isinstance(item, FunctionOutputItem) else item.content
    return [InputText(type="input_text", text=content)] if isinstance(content, str) else list(content)


def content_of(item: MessageItem) -> str:
    """Return the name of the field that has an item's parts."""
    return "output" if isinstance(item, FunctionOutputItem) else "content"


Label = Annotated[str, Field(max_length=512)]


class ResponseRequest(GenerationRequest):
    """`POST /v1/responses`. Null is the same as leaving a field out."""

    input: Text | Annotated[list[Item], Messages]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(fail_fast=True)] | None = None
    text: Annotated[TextConfig, or_default(TextConfig)] = TextConfig()
    truncation: Literal["disabled"] | None = None
    background: Annotated[Any, MustBeUnset(False)] = None
    tools: ResponseTools | None = None
    tool_choice: ChoiceMode | NamedChoice | None = None
    # Labels for the caller's own bookkeeping: they change no answer.
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    @property
    def messages(self) -> dict[str, MessageItem]:
        """Return the input's messages by their places; a text alone is the user's message."""
        if isinstance(self.input, str):
            return {"input": UserMessage(role="user", content=self.input)}
        return {f"input[{i}]": item for i, item in enumerate(self.input) if not isinstance(item, ReasoningItem)}

    @property
    def wants_logprobs(self) -> bool:
        """Return whether the answer's log-probabilities are requested."""
        return bool(self.include)


class NoQuery(BaseModel):
    """No query parameters."""

    model_config = ConfigDict(extra="forbid")


class ItemsQuery(NoQuery):
    """The query parameters of a list of messages."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None

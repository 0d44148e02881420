"""`POST /v1/responses`, as OpenAI's clients send it. A field that is not honoured is refused by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from lookonce_server.api.messages import ImageUrlText, ModelName
from lookonce_server.api.responses.objects import TextConfig
from lookonce_server.api.schemas import Extension


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputText(_Strict):
    """Text that the model is given."""

    type: Literal["input_text"]
    text: str


class OutputText(_Strict):
    """Text that the model has said. What else OpenAI says of such text changes nothing."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]] | None = None
    logprobs: list[dict[str, Any]] | None = None


class InputImage(_Strict):
    """An image: a base64 `data:` URL, or `lookonce:<context id>`."""

    type: Literal["input_image"]
    # Every image is taken at the resolution the model's processor chooses.
    detail: Literal["auto", "low", "high", "original"] | None = "auto"
    image_url: ImageUrlText
    file_id: None = None  # the server keeps no files


def _part_kind(part: Any) -> str:
    return str(part.get("type") if isinstance(part, dict) else getattr(part, "type", None))


Part = Annotated[
    Annotated[InputText, Tag("input_text")]
    | Annotated[OutputText, Tag("output_text")]
    | Annotated[InputImage, Tag("input_image")],
    Discriminator(
        _part_kind,
        custom_error_type="part_type",
        custom_error_message="a part's type must be 'input_text', 'input_image' or, of an assistant, 'output_text'",
    ),
]


class Item(_Strict):
    """A message of the conversation, one of the user's or one that the model gave before."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    # What a message that came from a response says of itself: taken, and changes nothing.
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    @property
    def parts(self) -> list[InputText | OutputText | InputImage]:
        """Its content, a text alone as one part."""
        if isinstance(self.content, str):
            return [InputText(type="input_text", text=self.content)]
        return list(self.content)

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        kinds = {part.type for part in self.parts}
        if "input_image" in kinds and self.role != "user":
            raise PydanticCustomError("item_image", "only user messages may have images")
        if "output_text" in kinds and self.role != "assistant":
            raise PydanticCustomError("item_output", "only assistant messages may have output_text")
        return self


def _a_message(item: Any) -> Any:
    if isinstance(item, dict) and item.get("type", "message") != "message":
        raise PydanticCustomError("item_type", "an item's type must be 'message'")
    return item


class StreamOptions(_Strict):
    """Events are not padded."""

    include_obfuscation: Literal[False] | None = None


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Label = Annotated[str, Field(max_length=512)]


class ResponseRequest(_Strict):
    """`POST /v1/responses`. Fields with one accepted value are those whose default means "not used"."""

    model: ModelName
    input: str | Annotated[list[Annotated[Item, BeforeValidator(_a_message)]], Field(min_length=1)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    text: TextConfig = TextConfig()
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # Without tools these say nothing.
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["auto", "none"] = "auto"
    parallel_tool_calls: bool | None = None
    # Labels for the caller's own bookkeeping: they change no answer.
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    lookonce: Extension = Extension()

    @property
    def items(self) -> list[Item]:
        """The input, a text alone as the user's message."""
        return [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's log-probabilities are asked for."""
        return bool(self.include)

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, data: Any) -> Any:
        """Half a character, which JSON can spell, can be neither tokenised, sent nor kept."""
        if not _encodable(data):
            raise PydanticCustomError("unicode", "the text has a lone surrogate, which is no character")
        return data


def _encodable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(_encodable(part) for pair in value.items() for part in pair)
    return not isinstance(value, list) or all(map(_encodable, value))

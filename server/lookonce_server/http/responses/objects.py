"""What is answered, in OpenAI's shape. The same models document it, and are what is kept of a response."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from lookonce_server.http.schemas.messages import kind_of
from lookonce_server.http.schemas.response_format import FormatName, Schema

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class Shown(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def shown(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json", by_alias=True)


class Requested(Shown):
    """A part of an answer that tells what was asked; it is without the nulls that came in fields it does not know."""

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_nulls(cls, data: Any) -> Any:
        known = {name for field, info in cls.model_fields.items() for name in (field, info.alias)}
        return {k: v for k, v in data.items() if v is not None or k in known} if isinstance(data, dict) else data


class FreeText(Requested):
    """Any text."""

    type: Literal["text"]


class JsonObject(Requested):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(Requested):
    """JSON that a schema accepts; `strict` or not, it always does."""

    type: Literal["json_schema"]
    name: FormatName
    schema_: Annotated[Schema, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


TextFormat = Annotated[
    Annotated[FreeText, Tag("type=text")]
    | Annotated[JsonObject, Tag("type=json_object")]
    | Annotated[JsonSchema, Tag("type=json_schema")],
    Discriminator(
        kind_of,
        custom_error_type="format_type",
        custom_error_message="a format's type must be 'text', 'json_object' or 'json_schema'",
    ),
]


class TextConfig(Requested):
    """The answer's text."""

    format: TextFormat = FreeText(type="text")
    verbosity: Literal["medium"] | None = "medium"


class OutputText(Shown):
    """The answer."""

    type: Literal["output_text"] = "output_text"
    text: str = ""
    annotations: list[JsonValue] = []
    logprobs: list[dict[str, JsonValue]] = []


class OutputMessage(Shown):
    """The message that the answer is."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    content: list[OutputText] = []


class InputTokensDetails(Shown):
    """Of the prompt's tokens."""

    cached_tokens: int  # that nobody computed for this answer
    cache_write_tokens: Literal[0] = 0


class OutputTokensDetails(Shown):
    """Of the answer's tokens."""

    reasoning_tokens: Literal[0] = 0


class Usage(Shown):
    """What the answer took."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class IncompleteDetails(Shown):
    """Why an answer ended early."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(Shown):
    """Why there is no answer."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class ResponseObject(Shown):
    """A response, with what it was asked."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    error: Failure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputMessage] = []
    usage: Usage | None = None
    previous_response_id: str | None
    store: bool
    instructions: str | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    text: TextConfig
    truncation: Literal["disabled"] = "disabled"
    background: Literal[False] = False
    service_tier: Literal["default"] = "default"
    tools: list[JsonValue] = []
    tool_choice: Literal["auto", "none"]
    parallel_tool_calls: bool
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    lookonce: dict[str, JsonValue] = {}

    @property
    def answer(self) -> str:
        """The answer's text."""
        return "".join(part.text for message in self.output for part in message.content)


class Deleted(Shown):
    """What is said of a response that was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemList(Shown):
    """A page of the messages that a response answered."""

    object: Literal["list"] = "list"
    data: list[dict[str, JsonValue]]
    first_id: str | None
    last_id: str | None
    has_more: bool

"""The objects of the Responses API, as they are documented, sent and kept."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, JsonValue

from lookonce_server.http.schemas.answers import TokenLogprob
from lookonce_server.http.schemas.must_be_unset import RepeatedModel
from lookonce_server.http.schemas.response_format import ResponseTextFormat, TextFormat
from lookonce_server.http.schemas.tools import ChoiceMode, FunctionTool, NamedChoice

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseModel(BaseModel):
    """A part of a response, which is sent with all of its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def to_json(self) -> str:
        """Return the JSON text that is sent."""
        return self.model_dump_json(by_alias=True)


class TextConfig(RepeatedModel):
    """The format of the answer's text."""

    format: ResponseTextFormat = TextFormat(type="text")
    verbosity: Literal["medium"] | None = "medium"


class OutputText(ResponseModel):
    """The answer."""

    type: Literal["output_text"] = "output_text"
    text: str = ""
    annotations: list[JsonValue] = []
    logprobs: list[TokenLogprob] = []


class OutputMessage(ResponseModel):
    """The answer's message."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    content: list[OutputText] = []


class ReasoningText(ResponseModel):
    """What the model thought before it answered."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str = ""


class ReasoningItem(ResponseModel):
    """The reasoning before the answer's message, never summarized."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    summary: list[JsonValue] = []
    content: list[ReasoningText] = []


class FunctionCall(ResponseModel):
    """A call of a function."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: Literal["in_progress", "completed", "incomplete"] = "in_progress"
    call_id: str
    name: str
    arguments: str = ""


OutputItem = Annotated[ReasoningItem | OutputMessage | FunctionCall, Discriminator("type")]


class InputTokensDetails(ResponseModel):
    """Parts of the prompt's tokens."""

    cached_tokens: int  # not computed for this answer
    image_tokens: int = 0  # that contexts keep, or all of whole images
    cache_write_tokens: int = 0  # image tokens kept by contexts that were made because of this question


class OutputTokensDetails(ResponseModel):
    """Parts of the answer's tokens."""

    reasoning_tokens: int = 0


class ResponseUsage(ResponseModel):
    """The tokens of the prompt and the answer."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class IncompleteDetails(ResponseModel):
    """The reason for an answer's early end."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(ResponseModel):
    """The reason for a missing answer."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class ResponseObject(ResponseModel):
    """A response, with the options of its request."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    error: Failure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
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
    tools: list[FunctionTool] = []
    tool_choice: ChoiceMode | NamedChoice
    parallel_tool_calls: bool
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    lookonce: dict[str, JsonValue] = {}

    @property
    def message(self) -> OutputMessage | None:
        """Return the answer's text; None if it is calls alone, or the model still reasoned when it had to end."""
        return next((item for item in self.output if isinstance(item, OutputMessage)), None)

    @property
    def calls(self) -> list[FunctionCall]:
        """Return the answer's calls."""
        return [item for item in self.output if isinstance(item, FunctionCall)]


class Deleted(ResponseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ListedText(ResponseModel):
    """A text of a listed message."""

    type: Literal["input_text"] = "input_text"
    text: str


class ListedAnswer(ResponseModel):
    """An answer of a listed message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[JsonValue] = []


class ListedImage(ResponseModel):
    """The image of a listed message, as `lookonce:` and its context's id."""

    type: Literal["input_image"] = "input_image"
    detail: Literal["auto"] = "auto"
    image_url: str | None


class ListedItem(ResponseModel):
    """A listed message."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    status: Literal["completed"] = "completed"
    content: list[ListedText | ListedAnswer | ListedImage]


class ListedCall(ResponseModel):
    """A listed call."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: Literal["completed"] = "completed"
    call_id: str
    name: str
    arguments: str


class ListedOutput(ResponseModel):
    """A listed result of a call."""

    id: str
    type: Literal["function_call_output"] = "function_call_output"
    status: Literal["completed"] = "completed"
    call_id: str
    output: list[ListedText | ListedAnswer | ListedImage]


class ItemList(ResponseModel):
    """A page of the messages that a response answered."""

    object: Literal["list"] = "list"
    data: list[ListedItem | ListedCall | ListedOutput]
    first_id: str | None
    last_id: str | None
    has_more: bool

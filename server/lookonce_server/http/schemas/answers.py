"""What OpenAPI says of answers. The objects themselves are made by `completion` and `operations`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lookonce_pruning import ScoreQueries
from lookonce_server.http.schemas.errors import EVENT
from lookonce_server.profile import Checkpoint, Measured


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TopLogprob(_Shape):
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class Logprobs(_Shape):
    """The tokens of an answer, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None


class Message(_Shape):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Delta(_Shape):
    """A piece of an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None


class Choice(_Shape):
    """One of the answers."""

    index: int
    message: Message
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class ChunkChoice(_Shape):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None


class PromptTokens(_Shape):
    """What of the prompt was not computed for this question."""

    cached_tokens: int
    audio_tokens: int


class CompletionTokens(_Shape):
    """OpenAI's kinds of tokens that are not text: there are none."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(_Shape):
    """The prompt once, and the tokens of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class Lookonce(_Shape):
    """How the answer came about."""

    cache: Literal["hit", "miss", "none", "bypass"]
    tier: str | None
    context_id: str | None
    context_tokens: int
    image_tokens: int
    tokens_saved: int
    fallback: Literal["none", "full_pass", "no_image", "no_room"] | None = None  # only where it was asked for


class _Head(_Shape):
    id: str
    created: int
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str


class ChatCompletion(_Head):
    """A chat completion, as OpenAI's, and how it came about."""

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: Usage
    lookonce: Lookonce


class ChatCompletionChunk(_Head):
    """One event of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None
    lookonce: Lookonce | None = None


class ModelProfile(_Shape):
    """Where a model's options come from, and what was measured of them."""

    checkpoint: Checkpoint
    overridden: Annotated[
        list[str], Field(description="options set otherwise here: where any is, `measured` is not theirs")
    ]
    measured: Measured


class ModelOptions(_Shape):
    """How images are described, unless a request wants it otherwise."""

    window: Annotated[str, Field(description="half-open range of layers whose attention is recorded, as in '2-6'")]
    rows: ScoreQueries
    selection: str
    retention: float
    describe_prompt: str
    profile: ModelProfile | None


class Model(_Shape):
    """A model, as OpenAI's, its longest prompt and answer together, and how images are described for it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    lookonce: ModelOptions


class Models(_Shape):
    """The models served."""

    object: Literal["list"]
    data: list[Model]


class Health(_Shape):
    """The process answers."""

    status: Literal["ok"]


class Ready(_Shape):
    """The server can answer questions."""

    status: Literal["ready"]
    model: str
    store: str
    store_state: Literal["ok", "read_only", "unavailable"]


class NotReady(BaseModel):
    """It cannot; another field names what is in the way."""

    status: Literal["not ready"]


ANSWER: dict[str, Any] = {
    "model": ChatCompletion,
    "description": "The answers; with `stream`, as server-sent events, each a chunk, and last `[DONE]`.",
    "content": {"text/event-stream": {"itemSchema": EVENT}},
}

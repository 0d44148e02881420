"""The models of chat completions, models and health checks, as sent."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lookonce_pruning import ScoreQueries
from lookonce_server.engines.base import FinishReason, Piece
from lookonce_server.http.schemas.errors import EVENT
from lookonce_server.profile import Checkpoint, Measured

TokenText = Callable[[int], str]
_MIN_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON does not have


class AnswerModel(BaseModel):
    """A part of an answer; a field that is not set is not sent."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def to_json(self) -> str:
        """Return the JSON text that is sent."""
        return self.model_dump_json(exclude_unset=True)


class TopLogprob(AnswerModel):
    """A token and the logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


def token_logprobs(
    pieces: Sequence[Piece], token_text: TokenText, *, unknown_bytes: list[int] | None = None
) -> list[TokenLogprob]:
    """Return the log-probability of each token, with the likeliest alternatives.

    Args:
        pieces: of an answer.
        token_text: returns a token's text.
        unknown_bytes: stands for the bytes of a part of a character, which its text does not tell.
    """

    def entry(token: int, logprob: float) -> dict[str, Any]:
        text = token_text(token)
        encoded = unknown_bytes if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": max(logprob, _MIN_LOGPROB), "bytes": encoded}

    return [
        TokenLogprob.model_validate(entry(token, logprob) | {"top_logprobs": [entry(*top) for top in tops]})
        for token, logprob, tops in (piece.logprob for piece in pieces if piece.logprob)
    ]


class Logprobs(AnswerModel):
    """The tokens of an answer, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None


class CallFunction(AnswerModel):
    """The function of a call, and its arguments as JSON text."""

    name: str
    arguments: str


class Call(AnswerModel):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: CallFunction


class CallFunctionPiece(AnswerModel):
    """The name of a function, on a call's first piece, and a piece of its arguments."""

    name: str | None = None
    arguments: str


class CallPiece(AnswerModel):
    """A piece of a call; the first one has its id."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CallFunctionPiece


class Message(AnswerModel):
    """An answer; its content is null where it is calls alone."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[Call] | None = None
    reasoning_content: str | None = None  # of a model that reasons


class Delta(AnswerModel):
    """A piece of an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[CallPiece] | None = None


class Choice(AnswerModel):
    """One of the answers."""

    index: int
    message: Message
    logprobs: Logprobs | None
    finish_reason: FinishReason


class ChunkChoice(AnswerModel):
    """A piece of one of the answers."""

    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class PromptTokens(AnswerModel):
    """Parts of the prompt's tokens."""

    cached_tokens: Annotated[int, Field(description="not computed for this answer")]
    image_tokens: Annotated[int, Field(description="of images: those that contexts keep, or all of whole images")]
    cache_write_tokens: Annotated[
        int | None,
        Field(description="image tokens kept by contexts that this question has made; null if not known yet"),
    ]
    audio_tokens: int


class CompletionTokens(AnswerModel):
    """Parts of the answer's tokens: text, and what the model thought before it."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class CompletionUsage(AnswerModel):
    """The tokens of the prompt, counted once, and of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens
    completion_tokens_details: CompletionTokens


class ImageUsage(AnswerModel):
    """One image of the question: its context."""

    context_id: str | None
    cache: Literal["hit", "miss", "bypass"]
    tier: str | None
    context_tokens: int
    image_tokens: int
    frames: int | None = None  # of a video, that the model saw


class Lookonce(AnswerModel):
    """The source of the answer: its contexts and the tokens saved."""

    cache: Literal["hit", "miss", "none", "bypass"]
    tier: str | None
    context_id: str | None
    context_tokens: int
    image_tokens: int
    tokens_saved: int
    images: list[ImageUsage]
    fallback: Literal["none", "full_pass", "no_image", "no_room"] | None = None  # only where it was asked for


class _Head(AnswerModel):
    id: str
    object: str
    created: int
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str


class ChatCompletion(_Head):
    """A chat completion, as OpenAI's, with the field `lookonce`."""

    object: Literal["chat.completion"]
    choices: list[Choice]
    usage: CompletionUsage
    lookonce: Lookonce


class ChatCompletionChunk(_Head):
    """One event of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    lookonce: Lookonce | None = None


class ModelProfile(AnswerModel):
    """The profile that a model's options come from."""

    checkpoint: Checkpoint
    overridden: Annotated[
        list[str], Field(description="options set otherwise here: where any is, `measured` is not theirs")
    ]
    measured: Measured


class PictureTokens(AnswerModel):
    """The image tokens of a picture of one size."""

    width: int
    height: int
    tokens: int


class ContextSize(AnswerModel):
    """The context of a picture, at one retention."""

    retention: float
    stored_tokens: Annotated[int, Field(description="without those before the image")]
    bytes: Annotated[dict[str, int], Field(description="by precision")]


class SeveralImages(AnswerModel):
    """Whether a question about several images is answered from their contexts."""

    from_contexts: bool
    reason: Annotated[str | None, Field(description="why not, if not")]


class ModelSizes(AnswerModel):
    """The model's class, and what its images and contexts weigh: as `lookonce check` tells it."""

    engine: Literal["transformers", "vllm"]
    architecture: str
    family: Annotated[str, Field(description="the configuration's model_type")]
    dtype: Annotated[str, Field(description="of keys and values at the precision 'native'")]
    image_tokens: Annotated[
        list[PictureTokens], Field(description="none where vLLM has options of the processor that change their count")
    ]
    context_sizes: Annotated[list[ContextSize], Field(description="of the first of these pictures")]
    state_bytes: Annotated[int, Field(description="of recurrent layers, in each of these contexts")]
    several_images: SeveralImages
    video: Annotated[
        Literal["video", "images"], Field(description="one item with tokens of its own, or its frames as images")
    ]


class ModelOptions(AnswerModel):
    """The describe options, unless a request changes them, and what contexts weigh."""

    window: Annotated[str, Field(description="half-open range of layers whose attention is recorded, as in '2-6'")]
    rows: ScoreQueries
    selection: str
    retention: float
    describe_prompt: str
    profile: ModelProfile | None
    model: ModelSizes | None


class Model(AnswerModel):
    """A model, as OpenAI's, with its length and its describe options."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    lookonce: ModelOptions


class Models(AnswerModel):
    """The models served."""

    object: Literal["list"]
    data: list[Model]


class Health(AnswerModel):
    """The process answers."""

    status: Literal["ok"]


class Ready(AnswerModel):
    """The server can answer questions."""

    status: Literal["ready"]
    model: str
    store: str
    store_state: Literal["ok", "read_only", "unavailable"]


class NotReady(AnswerModel):
    """The server cannot answer questions; one of the other fields says why."""

    status: Literal["not ready"]
    engine: str | None = None
    server: str | None = None
    store: str | None = None


ANSWER: dict[str, Any] = {
    "model": ChatCompletion,
    "description": "The answers; with `stream`, as server-sent events, each a chunk, and last `[DONE]`.",
    "content": {"text/event-stream": {"itemSchema": EVENT}},
}

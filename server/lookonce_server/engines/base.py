"""The protocol every engine implements."""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from lookonce_cache import CompressedContext
from lookonce_pruning import ScoreQueries
from lookonce_server.engines.admission import Admission
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.description import Description
from lookonce_server.engines.geometry import ImageCrop
from lookonce_server.engines.summary import ModelSummary
from lookonce_server.engines.tools import CallDelta, ToolChoice
from lookonce_server.engines.visuals import Visual
from lookonce_server.errors import EngineError, PromptTooLongError

_log = logging.getLogger(__name__)
# No text worth reading has as many characters to a token, whatever the model.
_CHARACTERS_A_TOKEN = 32

FinishReason = Literal["stop", "length", "tool_calls"]
# What a trace calls the steps of a pass, beside its wait in the queue.
ANSWER = ("load context", "first token", "decode answer")
FULL_PASS = ("prepare prompt", "first token", "decode answer")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts of a model that the rest of the server needs.

    Attributes:
        checkpoint: digest of the checkpoint's files, however it is run.
        fingerprint: identity of configuration, weights, processor and arithmetic: contexts of equal fingerprints mix.
        num_layers: layers of the text model that have attention, by which windows are counted.
        max_tokens: positions the model was made for: prompt and answer together.
        image_crop: the part of a picture that the image tokens cover; None where that cannot be told.
        vocabulary: how many tokens it knows.
        unjoinable: the reason for which an answer cannot stand on several contexts; None: it can.
        summary: what its images and contexts weigh; None until that is counted.
        no_tools: the reason for which it cannot choose tools; None: it can.
    """

    checkpoint: str
    fingerprint: str
    num_layers: int
    max_tokens: int
    image_crop: ImageCrop | None
    vocabulary: int
    unjoinable: str | None = None
    summary: ModelSummary | None = None
    no_tools: str | None = None

    def fit(self, prompt_tokens: int, sampling: "Sampling") -> "Sampling":
        """Shorten an answer to the room that the model has after the prompt.

        Raises:
            PromptTooLongError: there is no room for a single token.
        """
        room = self.max_tokens - prompt_tokens
        if room < 1:
            raise PromptTooLongError.beyond(self.max_tokens, f"the prompt has {prompt_tokens} tokens")
        return replace(sampling, max_tokens=min(room, sampling.max_tokens))

    def report_joins(self) -> None:
        """Log the reason for which contexts cannot be joined, if there is one."""
        if self.unjoinable is not None:
            _log.warning("Questions about several images are answered from the images themselves. %s", self.unjoinable)

    def check_joins(self, count: int) -> None:
        """Raise EngineError if that many contexts cannot be joined."""
        if count > 1 and self.unjoinable is not None:
            raise EngineError(f"This model answers from one context at a time. {self.unjoinable}")

    def check_length(self, conversation: Conversation) -> None:
        """Raise PromptTooLongError at text too long to be worth counting its tokens."""
        length, limit = conversation.length, self.max_tokens * _CHARACTERS_A_TOKEN
        if length > limit:
            raise PromptTooLongError.beyond(
                self.max_tokens, f"the messages have {length} characters, where {limit} are sure to be too many"
            )


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters of decoding.

    Attributes:
        max_tokens: most tokens generated.
        temperature: 0 is greedy.
        top_p: share of probability sampled from.
        top_k: how many of the likeliest tokens are sampled from; 0: all.
        min_p: least probability of a token that is sampled, as a share of the likeliest one's.
        seed: makes sampling repeatable.
        stop: texts that end the answer, and are not part of it.
        presence_penalty: taken off the logits of tokens that the answer has already.
        frequency_penalty: the same, times how often it has them. Neither ever looks at the prompt.
        logit_bias: (token, bias) pairs: what is added to the logits of single tokens.
        logprobs: None: not asked for; 0: of the chosen token; k: also of the k most likely.
        json_schema: the answer is JSON that this JSON Schema, as JSON text, accepts; None: free text.
        tool_choice: the calls that the answer may make; None: none.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    json_schema: str | None = None
    top_k: int = 0
    min_p: float = 0.0
    tool_choice: ToolChoice | None = None


@dataclass(frozen=True, slots=True)
class DescribePlan:
    """The parameters of describing and compressing.

    Attributes:
        prompt: the instruction, "Describe the image."
        max_tokens: most tokens of the description.
        rows: whose attention scores the image tokens.
        window: half-open range of layers whose attention is recorded.
        selection: name of the selection method, with options or without.
        retention: share of the image tokens kept.
        video_prompt: the instruction for a video, where `prompt` is an image's.
    """

    prompt: str
    max_tokens: int
    rows: ScoreQueries
    window: tuple[int, int]
    selection: str
    retention: float
    video_prompt: str = "Describe the video."

    @property
    def options(self) -> dict[str, Any]:
        """Return the options that decide which tokens are kept, as settings have them."""
        return {
            "window": f"{self.window[0]}-{self.window[1]}",
            "rows": self.rows,
            "selection": self.selection,
            "retention": self.retention,
            "describe_prompt": self.prompt,
        }


OnText = Callable[[str], None]
"""Takes a description piece by piece as it is generated, in the event loop; first "", when the pass begins."""


def ignore_text(text: str) -> None:
    """Take a description's text and do nothing with it."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first event of an answer. Two are equal if they tell of the same work, whenever it was done."""

    prompt_tokens: int  # of everything the answer stands on
    computed_tokens: int  # of those, how many were run through the model for this answer
    full_prompt_tokens: int  # of the same question's prompt with the whole image
    frames: tuple[int | None, ...] = ()  # of a full pass: the frames that it saw of each video; None for an image
    image_tokens: int = 0  # of a full pass: those of whole images in its prompt
    computed_image_tokens: int = 0  # of those, how many were run
    queue_seconds: float | None = field(default=None, compare=False)  # spent waiting in the engine; None: unknown
    started_at: float | None = field(default=None, compare=False)  # when its first step began, monotonic; None: unknown


class PassCounts(NamedTuple):
    """The passes in an engine. One waits until its first step, in vLLM until its first token."""

    requests_running: int  # answers: of a question with `n`, each
    requests_waiting: int
    describes_running: int
    describes_waiting: int


def pass_counts(admission: Admission) -> PassCounts:
    """Count the passes that were admitted."""
    return PassCounts(
        admission.running(),
        admission.waiting(),
        admission.running(background=True),
        admission.waiting(background=True),
    )


class TokenLogprob(NamedTuple):
    """A token's log-softmax, float32, of the model's raw logits.

    That is before temperature, penalties, biases and top_p. Where a schema is given it is among the tokens it allows.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token, logprob), most likely first; as many as asked for, and as there are


class Piece(NamedTuple):
    """A piece of an answer: the text that one token added to it."""

    text: str
    tokens: int  # generated for it
    finish_reason: FinishReason | None  # on the last piece only
    logprob: TokenLogprob | None = None  # where asked for; never of the token that ends an answer
    tier: str | None = None  # on the last piece, where the engine's own cache still held the context: "gpu"
    made_at: float | None = None  # monotonic; tokens that came from the model at once have the same
    reasoning: str | None = None  # what the model thinks before it answers; None: the token is none of it
    calls: tuple[CallDelta, ...] = ()  # of functions


Answer = AsyncGenerator[Started | Piece]
"""`Started`, then pieces, the last one with a finish reason. Closing it early stops the work."""


def is_last(event: object) -> bool:
    """Return whether a pass has no event after this one."""
    return isinstance(event, Description) or (isinstance(event, Piece) and event.finish_reason is not None)


class Engine(Protocol):
    """Run a model; methods are called from one event loop and never block it.

    Every pass may raise OverloadedError (the queue is full), PromptTooLongError and EngineError. What an engine keeps
    of one tenant's passes to make later ones quicker must not serve, or be measurable by, another tenant's.
    """

    facts: ModelFacts
    registry: CollectorRegistry | None  # of metrics that the engine keeps itself

    def template_digest(self, describe_prompt: str) -> str:
        """Return a digest of the chat template and the describe turn it renders now.

        A template may print the date there.

        Contexts of another one are not used: `answer` raises ContextOutdatedError, with no event before it.

        Raises:
            InvalidRequestError: the prompt cannot be encoded.
        """

    async def check_schema(self, schema: str) -> None:
        """Raise InvalidRequestError unless answers can be held to a JSON Schema."""

    def full(self, conversation: Conversation, images: Sequence[Visual], sampling: Sampling, tenant: str) -> Answer:
        """Answer from the whole prompt, with the conversation's images in the order of their numbers."""

    def answer(self, contexts: Sequence[CompressedContext], conversation: Conversation, sampling: Sampling) -> Answer:
        """Answer from contexts alone: those of the conversation's images, in the order of their numbers.

        Several are joined, which the facts may say is not possible: EngineError then.
        """

    async def describe(
        self, image: Visual, plan: DescribePlan, tenant: str, on_text: OnText = ignore_text
    ) -> Description:
        """Describe and compress an image or a video, behind everything that somebody waits for.

        The pieces that `on_text` takes, joined, are the description with the spaces around it.
        """

    def token_text(self, token: int) -> str:
        """Return the text of one token, by itself: see `text_stream.token_text`."""

    @property
    def queue_depth(self) -> int:
        """Return the passes that wait or run."""

    @property
    def passes(self) -> PassCounts:
        """Return how many passes of each kind wait, and run."""

    async def ping(self) -> None:
        """Return if the engine works, and raise EngineError if it does not."""

    async def close(self) -> None:
        """Stop the work and release the model."""

"""What the client returns and what it accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

OnMiss = Literal["full", "compress"]
Cache = Literal["use", "bypass"]


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: the answer.
        cache: `hit`: it came from the compressed context, and no pixel was looked at, unless `fallback` says else;
            `miss`: the image was new; `bypass`: no context was looked for, as was asked.
        tier: where the context was found, `memory`, `redis` or `gpu`; None unless it is a hit.
        context_tokens: tokens of the context that the question was answered on; 0 where it was the whole image.
        tokens_saved: prompt tokens that the ordinary way would have run in addition.
        context_id: the image's context, 64 hex digits; None where the server makes none.
        prompt_tokens: tokens of the prompt.
        cached_tokens: those of them that were not computed again.
        completion_tokens: tokens of the answer.
        seconds: wall time from the question to the end of the answer, as this client saw it.
        fallback: where `fallback` was asked for, what became of an answer from the context: `none`: it was sure, and
            is this one; `full_pass`: it was not, and this one is from the whole image; `no_image`, `no_room`: it was
            not, but the server did not have the image, or the whole of it does not fit the model. None else.
    """

    text: str
    cache: str
    tier: str | None
    context_tokens: int
    tokens_saved: int
    context_id: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    fallback: str | None = None

    @property
    def hit(self) -> bool:
        """Whether it came from a context that was there."""
        return self.cache == "hit" and self.fallback != "full_pass"


@dataclass(frozen=True)
class Turn:
    """A question of a chat, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Context:
    """A compressed context as the server keeps it.

    Attributes:
        id: 64 hex digits.
        description: what the model said about the image when it looked.
        image_tokens: tokens that the image has.
        kept_tokens: those of them that were kept.
        tokens: tokens of the whole context: those kept, the system prompt and the query.
        bytes: its size in the store.
        retention: the share of image tokens kept, 0.05 for 5%.
        selection: the method that chose them.
        precision: in which its keys and values are stored, e.g. `native` or `int8`.
        created_at: seconds since 1970, UTC.
        expires_at: likewise; None when it never does.
    """

    id: str
    description: str
    image_tokens: int
    kept_tokens: int
    tokens: int
    bytes: int
    retention: float
    selection: str
    precision: str
    created_at: float
    expires_at: float | None


@dataclass(frozen=True)
class ContextTokens:
    """How much each token of an image counted, and which were kept.

    Attributes:
        id: of the context, 64 hex digits.
        grid: rows and columns of the image's tokens.
        scores: one an image token, row by row.
        kept: indices of those kept, ascending.
        retention: the share of image tokens kept.
        selection: the method that chose them.
    """

    id: str
    grid: tuple[int, int]
    scores: tuple[float, ...]
    kept: tuple[int, ...]
    retention: float
    selection: str


@dataclass(frozen=True)
class ContextStats:
    """What the caller's contexts amount to.

    Attributes:
        contexts: how many there are.
        bytes: what they take in the store.
        oldest: when the oldest was stored, seconds since 1970, UTC; None where there is none.
        newest: likewise.
        hits: lookups since the server started that found a context; of several servers, those of the one that answered.
        misses: those that found none.
        hit_rate: hits as a share of both, 0 to 1; None before the first lookup.
    """

    contexts: int
    bytes: int
    oldest: float | None
    newest: float | None
    hits: int
    misses: int
    hit_rate: float | None


class ContextOptions(TypedDict, total=False):
    """How an image's context is made, within the limits the operator sets; what is left out is the server's default.

    Attributes:
        retention: the share of image tokens to keep, above 0, at most 1.
        ttl: seconds that the context is kept; each use renews it for as long.
        describe_prompt: what the model is asked when it looks at the image.
    """

    retention: float
    ttl: float
    describe_prompt: str


class ImageOptions(ContextOptions, total=False):
    """What rides on every request of an image's session.

    Attributes:
        on_miss: `full` answers at once from the whole image while the context is made; `compress` makes it first.
        cache: `bypass` sends the pixels every time and has the whole image looked at; nothing is found or kept.
        fallback: have the whole image looked at where the answer from its context is not sure. The pixels are sent
            every time, where they are known.
    """

    on_miss: OnMiss
    cache: Cache
    fallback: bool


class AskOptions(TypedDict, total=False):
    """What a question may have beside its text; what is left out is the session's, and then the server's default.

    Attributes:
        max_tokens: the longest answer, in tokens.
        temperature: 0 always gives the likeliest answer; higher varies more.
        top_p: sample from the likeliest tokens that make up this share, 0 to 1.
        seed: makes sampling repeatable.
        stop: text at which the answer ends.
        ttl: seconds for which this use renews the context.
        on_miss: as in `ImageOptions`.
        cache: as in `ImageOptions`.
        fallback: as in `ImageOptions`.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: str | list[str]
    ttl: float
    on_miss: OnMiss
    cache: Cache
    fallback: bool

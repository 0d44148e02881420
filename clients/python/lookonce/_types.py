"""Define the values that the client returns and the options that it accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from ._session import AsyncImageSession, ImageSession

OnMiss = Literal["full", "compress"]
Mode = Literal["auto", "describe_first", "full_image"]
Cache = Literal["use", "bypass"]


@dataclass(frozen=True)
class ImageUsage:
    """How an answer used one image.

    Attributes:
        context_id: the id of the image's context; None if the server makes none.
        cache: `hit`, `miss` or `bypass`, see `Answer`.
        tier: the tier that had the context; None unless `cache` is `hit`.
        context_tokens: tokens of the context; 0 if the answer came from the whole image.
        image_tokens: tokens of the whole image; 0 where no context was used.
    """

    context_id: str | None
    cache: str
    tier: str | None
    context_tokens: int
    image_tokens: int


@dataclass(frozen=True)
class Answer:
    """An answer to one question.

    Attributes:
        text: the answer.
        cache: `hit`: the answer came from compressed contexts and not from pixels, unless `fallback` says otherwise;
            `miss`: an image was new; `bypass`: the request asked for no lookup; `none`: there was no image.
        tier: the tier that had the context, `memory`, `redis` or `gpu`; None unless `cache` is `hit`.
        context_tokens: tokens of the contexts that the answer came from; 0 if it came from the whole images.
        tokens_saved: prompt tokens that the whole images would have taken in addition.
        context_id: the id of the image's context, 64 hex digits; None if the server makes none, or of several images.
        prompt_tokens: tokens of the prompt.
        cached_tokens: tokens of the prompt that were not computed again.
        completion_tokens: tokens of the answer.
        seconds: wall time from the question to the end of the answer, as this client saw it.
        fallback: the outcome if the request asked for `fallback`: `none`: the answer from the context was certain, and
            is this one; `full_pass`: it was uncertain, and this one is from the whole image; `no_image`, `no_room`: it
            was uncertain, but the server did not have the image, or the whole of it does not fit the model. None
            otherwise.
        images: how it used each image, in the order of the conversation; an image that comes again is there once.
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
    images: tuple[ImageUsage, ...] = ()

    @property
    def hit(self) -> bool:
        """Whether the answer came from stored contexts alone."""
        return self.cache == "hit" and self.fallback != "full_pass"


@dataclass(frozen=True)
class Turn:
    """A question of a conversation, its answer, and the images that came with it.

    The images of the session that the conversation is about are not among them: they always come first.
    """

    question: str
    answer: str
    images: tuple[ImageSession | AsyncImageSession, ...] = ()


@dataclass(frozen=True)
class Context:
    """A stored context.

    Attributes:
        id: 64 hex digits.
        description: the model's description of the image.
        image_tokens: number of the image's tokens.
        kept_tokens: number of image tokens that are kept.
        tokens: number of tokens of the whole context: image tokens kept, system prompt and describe prompt.
        bytes: size in the store.
        retention: share of image tokens kept, 0.05 for 5%.
        selection: name of the method that selected them.
        precision: precision of the stored keys and values, e.g. `native` or `int8`.
        created_at: time of storing, seconds since 1970, UTC.
        expires_at: time of expiry, likewise; None if it never expires.
        frames: number of a video's frames that the model saw; None of an image.
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
    frames: int | None = None


@dataclass(frozen=True)
class ContextTokens:
    """The scores of an image's tokens, and the tokens kept.

    Attributes:
        id: id of the context, 64 hex digits.
        grid: rows and columns of the image's tokens; of a video its frames before them. One row for tokens in tiles.
        boxes: of tokens in tiles, left, top, right and bottom of each, as shares of the width and height of the image
            or of the frame, all 0 for one that shows nothing; None where the grid tells.
        scores: one score per image token, row by row.
        kept: indices of the tokens kept, ascending.
        retention: share of image tokens kept.
        selection: name of the method that selected them.
    """

    id: str
    grid: tuple[int, ...]
    scores: tuple[float, ...]
    kept: tuple[int, ...]
    retention: float
    selection: str
    boxes: tuple[tuple[float, float, float, float], ...] | None = None


@dataclass(frozen=True)
class ContextStats:
    """Statistics of the caller's contexts.

    Attributes:
        contexts: number of contexts.
        bytes: their size in the store.
        oldest: time at which the oldest was stored, seconds since 1970, UTC; None if there is none.
        newest: time at which the newest was stored, likewise.
        hits: lookups that found a context since the server started; only this server's, if several share a store.
        misses: lookups that found none.
        hit_rate: share of hits among the lookups, 0 to 1; None before the first lookup.
        tokens_saved: prompt tokens that whole images would have taken besides, since the server started.
    """

    contexts: int
    bytes: int
    oldest: float | None
    newest: float | None
    hits: int
    misses: int
    hit_rate: float | None
    tokens_saved: int = 0


@dataclass(frozen=True)
class Saved:
    """The savings of some questions, compared with the whole image for each of them.

    Attributes:
        questions: number of questions answered.
        hits: number of answers that came from stored contexts alone.
        prompt_tokens_saved: prompt tokens that were not run through the model.
        prompt_tokens_full: prompt tokens that the whole image for each question would have taken.
        bytes_not_sent: bytes of images, as requests carry them (base64), that a context's id replaced.
        images: number of images asked about, each counted with each question.
        image_hits: those of them whose context was stored already.
    """

    questions: int = 0
    hits: int = 0
    prompt_tokens_saved: int = 0
    prompt_tokens_full: int = 0
    bytes_not_sent: int = 0
    images: int = 0
    image_hits: int = 0

    @property
    def share(self) -> float:
        """The share of prompt tokens saved, 0 to 1."""
        return self.prompt_tokens_saved / self.prompt_tokens_full if self.prompt_tokens_full else 0.0


class ContextOptions(TypedDict, total=False):
    """Options of a context, within the operator's limits; the server has defaults.

    Attributes:
        retention: share of image tokens to keep, above 0, at most 1.
        ttl: seconds for which the context is kept; each use renews it.
        describe_prompt: prompt for the description of the image.
    """

    retention: float
    ttl: float
    describe_prompt: str


class ImageOptions(ContextOptions, total=False):
    """Options of every request of a session.

    Attributes:
        mode: `auto` answers a new image at once from all of it while its context is made, and from the context
            afterwards; `describe_first` makes the context first; `full_image` sends the pixels every time and answers
            from the whole image, without a context.
        fallback: answer from the whole image if the answer from its context is uncertain. The pixels are sent every
            time, if they are known.
        on_miss: an older name: `full` is the mode `auto`, `compress` is `describe_first`.
        cache: an older name: `bypass` is the mode `full_image`.
    """

    mode: Mode
    on_miss: OnMiss
    cache: Cache
    fallback: bool


class AskOptions(TypedDict, total=False):
    """Options of a question; the session and the server have defaults.

    Attributes:
        max_tokens: the longest answer, in tokens.
        temperature: 0 always gives the likeliest answer; higher varies more.
        top_p: sample from the likeliest tokens that make up this share, 0 to 1.
        seed: makes sampling repeatable.
        stop: text at which the answer ends.
        ttl: seconds for which this use renews the context.
        mode: see `ImageOptions`.
        on_miss: see `ImageOptions`.
        cache: see `ImageOptions`.
        fallback: see `ImageOptions`.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: str | list[str]
    ttl: float
    mode: Mode
    on_miss: OnMiss
    cache: Cache
    fallback: bool

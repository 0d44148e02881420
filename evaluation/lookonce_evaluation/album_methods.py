"""Methods to answer questions about several images, registered in `album_methods`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Literal, NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.joins import ImagesRun, Joined
from lookonce_evaluation.model import PreparedCache, about_images
from lookonce_pruning import get_selection, kept_count
from lookonce_server.engines.prefix import TextSpan
from lookonce_server.engines.transformers.model import stacked

RECOMPUTED = 0.1
"""Share of the kept image tokens that are computed anew."""
Repair = Literal["packed", "text in place", "text again", "one turn", "10% anew", "text and 10% anew", "all anew"]
REPAIRS: tuple[Repair, ...] = ("text in place", "text again", "one turn", "10% anew", "text and 10% anew", "all anew")
REPAIRED = (1.0, 0.1, 0.05, 0.02)
"""The retentions at which they are tried."""
SMALL = 0.05
"""The retention at which selections are compared."""
SEEDS = range(3)


class Asked(NamedTuple):
    """Some of the questions, ready to be asked."""

    cache: PreparedCache
    questions: list[int]  # their numbers, in the order of the cache's prompts
    computed: int  # tokens run for the cache when a question comes
    stored: int  # bytes of what is stored for it


class Method(Protocol):
    """A method to answer; those of one name and retention differ in their seed."""

    @property
    def name(self) -> str:
        """As tables have it."""

    @property
    def retention(self) -> float | None:
        """Share of the image tokens kept; None where that says nothing."""

    def prepare(self, run: ImagesRun) -> list[Asked]:
        """Make images ready for their questions."""


@dataclass(frozen=True)
class FullPass:
    """All images whole, asked directly."""

    name: str = "full pass"
    retention: None = None

    def prepare(self, run: ImagesRun) -> list[Asked]:
        """See `Method.prepare`."""
        cache = run.model.prefix(*run.images.images)
        prompts = [run.model.after_image(question.text, run.count) for question in run.images.questions]
        return [Asked(cache._replace(prompts=prompts), [*range(len(prompts))], cache.tokens, 0)]


@dataclass(frozen=True)
class OneImage:
    """The image that a question is about, whole and alone."""

    name: str = "full pass, that image alone"
    retention: None = None

    def prepare(self, run: ImagesRun) -> list[Asked]:
        """See `Method.prepare`."""
        asked = []
        for number, image in enumerate(run.images.images):
            own = [(i, alone.text) for i, alone in enumerate(run.images.alone) if alone and alone.image == number]
            if own:
                cache = run.model.prefix(image)._replace(prompts=[run.model.after_image(text) for _, text in own])
                asked.append(Asked(cache, [i for i, _ in own], cache.tokens, 0))
        return asked


@dataclass(frozen=True)
class NoImage:
    """The question alone: what can be guessed."""

    name: str = "no image"
    retention: None = None

    def prepare(self, run: ImagesRun) -> list[Asked]:
        """See `Method.prepare`."""
        model = run.model
        ids = [model.prompts.full_ids(about_images(0, question.text)) for question in run.images.questions]
        same = takewhile(lambda tokens: len({*tokens}) == 1, zip(*(each[:-1] for each in ids), strict=False))
        shared = tuple(tokens[0] for tokens in same)
        text = model.runner.text_kv(TextSpan(shared))
        cache = PreparedCache(text.keys, text.values, len(shared), [each[len(shared) :] for each in ids])
        return [Asked(cache, [*range(len(ids))], len(shared), 0)]


@dataclass(frozen=True)
class JoinedContexts:
    """Contexts of the images, each described alone, joined.

    Attributes:
        name: as tables have it.
        retention: share of each image's tokens kept.
        selection: as `get_selection` takes it.
        repair: what else is done, None for what the server does. "packed": contexts are as wide as they have tokens.
            "text in place": the describe turns' text is computed anew where it stands, behind all that is before it.
            "text again": it stands once more behind all images. "one turn": all images stand before the text of one
            describe turn. "10% anew": so many of the kept tokens are computed anew, those with the largest weights.
            "all anew": all of them, and the text.
        seed: of a selection that draws; each image is drawn for anew.
    """

    name: str
    retention: float
    selection: str
    repair: Repair | None = None
    seed: int | None = None

    def prepare(self, run: ImagesRun) -> list[Asked]:
        """See `Method.prepare`."""
        kept = self.kept(run)
        joined, computed, embeddings = self._join(run, kept)
        cache = joined.cache
        token_bytes = cache.bytes // cache.tokens
        # Whichever image comes first, its text stays as it is stored.
        own_text = 0 if self.repair == "one turn" else run.own_text
        tokens = sum(cells.shape[1] for cells in kept) + run.count * own_text
        stored = tokens * token_bytes + embeddings * run.embedding_bytes
        return [Asked(cache, [*range(len(cache.prompts))], computed, stored)]

    def kept(self, run: ImagesRun) -> list[Tensor]:
        """Select the image tokens that stay, each `[1, kept]`."""
        kept = []
        for number, scores in enumerate(run.scores):
            draw = {} if self.seed is None else {"seed": crc32(f"{self.seed} {run.images.name}.{number}".encode())}
            selection = get_selection(self.selection, **draw)
            try:
                kept.append(selection.select(scores, kept_count(self.retention, scores.tokens)))
            except ValueError as error:
                raise EvaluationError(str(error)) from error
        if any(len(cells) > 1 for cells in kept):
            raise EvaluationError(f"selection {self.selection!r}: expected one choice for all layers")
        return kept

    def _join(self, run: ImagesRun, kept: Sequence[Tensor]) -> tuple[Joined, int, int]:
        """Join contexts; with the tokens that are computed for it, and those of them that need their embeddings."""
        if self.repair == "one turn":
            joined = run.one_turn(kept)
            return joined, int(joined.table.is_text[joined.first_later :].sum()), 0
        joined = run.join(kept, packed=self.repair == "packed")
        if self.repair in (None, "packed"):
            return joined, 0, 0
        if self.repair == "text again":
            ids = run.text_again
            step = run.model.ask(joined.cache, ids)
            keys, values = stacked(step.cache, joined.cache.tokens + len(ids))
            cache = PreparedCache(keys, values, step.next_position, joined.cache.prompts)
            return joined._replace(cache=cache), len(ids), 0
        is_later = torch.arange(len(joined.table.ids)) >= joined.first_later
        images = is_later & ~joined.table.is_text
        if self.repair in ("10% anew", "text and 10% anew"):
            images &= self._heaviest(run.weights(joined).masked_fill(~images, -1.0), sum(c.shape[1] for c in kept))
        chosen = torch.zeros_like(images) if self.repair == "text in place" else images.clone()
        if self.repair != "10% anew":
            chosen |= is_later & joined.table.is_text
        embeddings = int((chosen & images).sum())
        return run.recompute(joined, chosen), int(chosen.sum()), embeddings

    def _heaviest(self, weights: Tensor, kept: int) -> Tensor:
        """Mark the largest weights, a share of the kept tokens."""
        count = min(math.ceil(RECOMPUTED * kept), int((weights >= 0).sum()))
        return torch.zeros_like(weights, dtype=torch.bool).scatter_(0, weights.topk(count).indices, value=True)


@dataclass(frozen=True)
class DescribedTogether(JoinedContexts):
    """One context of all images, described after each other in one pass that saw them all: a bound.

    What it keeps are the same tokens, and it serves these images in this order alone.
    """

    def _join(self, run: ImagesRun, kept: Sequence[Tensor]) -> tuple[Joined, int, int]:
        return run.together(kept), 0, 0


@dataclass(frozen=True)
class VideoContext:
    """One context of all images, described together as the frames of a video.

    Attributes:
        name: as tables have it.
        retention: share of all image tokens kept.
        selection: as `get_selection` takes it.
        seed: of a selection that draws; each video is drawn for anew.
    """

    name: str
    retention: float
    selection: str
    seed: int | None = None

    def prepare(self, run: ImagesRun) -> list[Asked]:
        """See `Method.prepare`."""
        described = run.described_as_video
        scores = described.scores(run.settings.rows)
        draw = {} if self.seed is None else {"seed": crc32(f"{self.seed} {run.images.name}".encode())}
        kept = get_selection(self.selection, **draw).select(scores, kept_count(self.retention, scores.tokens))
        cache = described.context(kept)._replace(prompts=run.after_video)
        shared = len(run.turn.prefix)  # which no context stores
        return [Asked(cache, [*range(len(cache.prompts))], 0, cache.bytes // cache.tokens * (cache.tokens - shared))]


def video_methods(retentions: Sequence[float], selection: str) -> list[Method]:
    """List the methods to answer about a video, the full pass first."""
    registry: list[Method] = [FullPass(), NoImage()]
    for share in (1.0, *retentions):
        registry.append(VideoContext("described together", share, selection))
        if share < 1:
            others = [name for name in ("attention", "uniform") if name != selection]
            registry += [VideoContext(f"described together, {name}", share, name) for name in others]
            registry += [VideoContext("described together, random", share, "random", seed) for seed in SEEDS]
        registry.append(JoinedContexts("frames joined", share, selection))
    return registry


def album_methods(retentions: Sequence[float], selection: str) -> list[Method]:
    """List all methods, the full pass first."""
    registry: list[Method] = [FullPass(), OneImage(), NoImage()]
    for share in (1.0, *retentions):
        registry.append(JoinedContexts("joined", share, selection))
        if share < 1:
            registry.append(JoinedContexts("joined, packed", share, selection, "packed"))
        if share in REPAIRED:
            registry += [JoinedContexts(f"joined, {repair}", share, selection, repair) for repair in REPAIRS]
            registry.append(DescribedTogether("described together", share, selection))
        if share == SMALL:
            others = [name for name in ("attention", "uniform") if name != selection]
            registry += [JoinedContexts(f"joined, {name}", share, name) for name in others]
            registry += [JoinedContexts("joined, random", share, "random", seed=seed) for seed in SEEDS]
    return registry


def as_json(chosen: Sequence[Method]) -> list[Any]:
    """Write methods as a run's file names them."""
    return [{"method": type(each).__name__, **asdict(each)} for each in chosen]  # type: ignore[call-overload]

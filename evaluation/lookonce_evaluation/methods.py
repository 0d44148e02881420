"""Methods to answer the questions about an image, registered in `methods`.

One describe pass, recorded in every layer, serves all methods, whatever layers and rows they score by.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, Protocol, get_args
from zlib import crc32

import torch
from torch import Tensor

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.describe import DescribePass, describe
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_pruning import ImageScores, ScoreQueries, get_selection, kept_count, rotate_keys
from lookonce_scenes.world import IMAGE_SIZE, Scene
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import Prompt
from lookonce_server.engines.transformers.model import stacked

SMALL = (0.05, 0.02)
"""The retentions of the paper's table: what is scored and how it is chosen are varied more at these."""
SEEDS = range(5)
"""Of random draws at these. Each image is drawn for anew, so one seed has as many draws as there are images."""


class ImageRun:
    """One image, and what all methods to answer about it share."""

    def __init__(self, model: EvalModel, case: Case) -> None:
        self.model, self.case = model, case
        self._scores: dict[ScoreQueries, ImageScores] = {}

    @cached_property
    def described(self) -> DescribePass:
        """The describe pass, recorded in all layers."""
        return describe(self.model, self.case, range(self.model.num_layers))

    @cached_property
    def after_context(self) -> list[list[int]]:
        """The questions as they follow a context."""
        return [self.model.after_context(question.text) for question in self.case.questions]

    def scores(self, window: range, rows: ScoreQueries) -> ImageScores:
        """Score each image token by what these rows pay it in the layers of the window."""
        if rows not in self._scores:
            self._scores[rows] = self.described.scores(rows)
        return self._scores[rows].within(window)


class Method(Protocol):
    """A method to answer; those of one name and retention differ in their seed."""

    @property
    def name(self) -> str:
        """As tables have it."""

    @property
    def retention(self) -> float | None:
        """Share of the image tokens kept; None where that says nothing."""

    def prepare(self, run: ImageRun) -> PreparedCache:
        """Make an image ready for its questions."""


@dataclass(frozen=True)
class FullPass:
    """The whole image, asked directly."""

    name: str = "full pass"
    retention: None = None

    def prepare(self, run: ImageRun) -> PreparedCache:
        """See `Method.prepare`."""
        prompts = [run.model.after_image(question.text) for question in run.case.questions]
        return run.model.prefix(run.case.image)._replace(prompts=prompts)


@dataclass(frozen=True)
class Context:
    """A compressed context.

    Attributes:
        name: as tables have it.
        retention: share of the image tokens kept; 0 for none, which no server makes.
        selection: as `get_selection` takes it, or "oracle".
        window: (first, end) of the layers whose attention is scored.
        rows: whose attention is scored.
        seed: of a selection that draws; each image is drawn for anew.
    """

    name: str
    retention: float
    selection: str
    window: tuple[int, int]
    rows: ScoreQueries
    seed: int | None = None

    def prepare(self, run: ImageRun) -> PreparedCache:
        """See `Method.prepare`."""
        return run.described.context(self.kept(run))._replace(prompts=run.after_context)

    def kept(self, run: ImageRun) -> Tensor:
        """Select the image tokens that stay, `[1 or layers, kept]`."""
        scores = run.scores(range(*self.window), self.rows)
        keep = kept_count(self.retention, scores.tokens) if self.retention else 0
        if self.selection == "oracle":
            return oracle(run.case.scene, scores.grid, keep)
        options = {} if self.seed is None else {"seed": crc32(f"{self.seed} {run.case.name}".encode())}
        return get_selection(self.selection, **options).select(scores, keep)


@dataclass(frozen=True)
class ImageOnly(Context):
    """The kept image tokens alone, without any of the prompt's text."""

    def prepare(self, run: ImageRun) -> PreparedCache:
        """See `Method.prepare`."""
        described, kept = run.described, self.kept(run)
        index = described.prompt.image_positions[kept][:, None, :, None].to(described.keys.device)
        keys, values = (torch.take_along_dim(each, index, dim=2) for each in (described.keys, described.values))
        tokens = kept.shape[1]
        rotated = rotate_keys(keys, described.rope, tokens - described.next_position)
        return PreparedCache(rotated, values, tokens, run.after_context)


@dataclass(frozen=True)
class CaptionOnly:
    """The description as text in an earlier turn; no image at all."""

    name: str = "caption only"
    retention: None = None

    def prepare(self, run: ImageRun) -> PreparedCache:
        """See `Method.prepare`."""
        model, caption = run.model, run.described.text
        for placeholder, _ in model.prompts.placeholder_tokens.kinds:  # should a model have generated one
            caption = caption.replace(placeholder, "")
        turns = (Turn("user", (model.describe_prompt,)), Turn("assistant", (caption,)))
        texts = ("?", *(question.text for question in run.case.questions))
        ids = [model.prompts.full_ids(Conversation((*turns, Turn("user", (text,))))) for text in texts]
        shared = [same[0] for same in takewhile(lambda same: len({*same}) == 1, zip(*ids, strict=False))]
        prompt = Prompt({"input_ids": torch.tensor([shared])}, torch.empty(0, dtype=torch.int64), (0, 0))
        cache, tokens = model.prefill(prompt).cache, len(shared)
        return PreparedCache(*stacked(cache, tokens), tokens, [each[tokens:] for each in ids[1:]])


def methods(
    retentions: Sequence[float], selection: str, window: range, rows: ScoreQueries, layers: int
) -> list[Method]:
    """List all methods, the full pass first."""
    scored = ((window.start, window.stop), rows)
    registry: list[Method] = [FullPass(), Context("everything", 1.0, "attention", *scored)]
    for share in retentions:
        registry += [Context(name, share, name, *scored) for name in dict.fromkeys((selection, "attention"))]
        registry.append(Context("attention-per-layer", share, "attention-per-layer", (0, layers), rows))
        registry += _variants(share, *scored, layers) if share in SMALL else []
        registry.append(Context("uniform", share, "uniform", *scored))
        seeds = SEEDS if share in SMALL else SEEDS[:1]
        registry += [Context("random", share, "random", *scored, seed=seed) for seed in seeds]
        registry.append(Context("oracle", share, "oracle", *scored))
    registry.append(Context("query only", 0.0, "attention", *scored))
    registry += [ImageOnly("image only", share, selection, *scored) for share in retentions if share in SMALL]
    return [*registry, CaptionOnly()]


def _variants(share: float, window: tuple[int, int], rows: ScoreQueries, layers: int) -> Iterator[Context]:
    """Attention scored in all layers, and by other rows; and half attention, half not."""
    yield Context("attention, all layers", share, "attention", (0, layers), rows)
    for other in get_args(ScoreQueries):
        if other != rows:
            yield Context(f"attention, {other} rows", share, "attention", window, other)
    yield Context("attention-uniform", share, "attention-uniform", window, rows)
    yield Context("attention-random", share, "attention-random", window, rows, seed=0)


def as_json(chosen: Sequence[Method]) -> list[Any]:
    """Write methods as a run's file names them."""
    return [{"method": type(each).__name__, **asdict(each)} for each in chosen]  # type: ignore[call-overload]


def oracle(scene: Scene | None, grid: tuple[int, ...], keep: int) -> Tensor:
    """Select the tokens nearest to the objects' centres, in turn: `[1, keep]`.

    Raises:
        EvaluationError: nobody knows what is in the picture.
    """
    if scene is None:
        raise EvaluationError("the oracle needs to know where the objects are, which is known of scenes alone")
    rows, columns = torch.meshgrid(*((torch.arange(count) + 0.5) * IMAGE_SIZE / count for count in grid), indexing="ij")
    nearness = torch.zeros(rows.numel())
    for o in scene.objects:
        rank = ((rows - o.y) ** 2 + (columns - o.x) ** 2).flatten().argsort().argsort()
        nearness = torch.maximum(nearness, 1 / (1 + rank))
    return nearness.topk(keep).indices.sort().values[None]

"""Ways to answer the questions about an image: from all of it, or from what is kept of one describe pass.

One describe pass, recorded in every layer, serves all ways, whatever layers and rows they score by.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from lookonce_evaluation.dataset import Case
from lookonce_evaluation.describing import Described
from lookonce_evaluation.oracle import oracle
from lookonce_evaluation.subject import Subject
from lookonce_pruning import ImageScores, ScoreQueries, get_selection, kept_count, rotate_keys
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import Prompt
from lookonce_server.engines.transformers.model import stacked


class Ready(NamedTuple):
    """What a model has in its cache when the questions come, and the questions as they follow it."""

    keys: Tensor  # [layers, kv_heads, tokens, head_dim], after RoPE
    values: Tensor  # like keys
    next_position: int  # RoPE position of each question's first token
    prompts: list[list[int]]  # token ids, by question

    @property
    def tokens(self) -> int:
        """How many are in context before the question."""
        return self.keys.shape[2]

    @property
    def bytes(self) -> int:
        """Of keys and values."""
        return 2 * self.keys.nbytes


class Look:
    """One image, and what all ways to answer about it share.

    Args:
        subject: the checkpoint.
        case: the image and its questions.
    """

    def __init__(self, subject: Subject, case: Case) -> None:
        self.subject = subject
        self.case = case
        self._scores: dict[ScoreQueries, ImageScores] = {}

    @cached_property
    def described(self) -> Described:
        """The describe pass, recorded in all layers."""
        return self.subject.describe(self.case, range(self.subject.runner.num_layers))

    @cached_property
    def after_context(self) -> list[list[int]]:
        """The questions as they follow a context."""
        return [self.subject.grader.after_context(question) for question in self.case.questions]

    def scores(self, window: range, rows: ScoreQueries) -> ImageScores:
        """What these rows pay each image token in the layers of the window."""
        if rows not in self._scores:
            self._scores[rows] = self.described.scores(rows)
        return self._scores[rows].within(window)


class Way(Protocol):
    """One way to answer. Ways of one name and retention differ in their seed, and are reported together."""

    @property
    def name(self) -> str:
        """As tables have it."""

    @property
    def retention(self) -> float | None:
        """Share of the image tokens kept; None where that says nothing."""

    def ready(self, look: Look) -> Ready:
        """An image made ready for its questions."""


@dataclass(frozen=True)
class FullPass:
    """The whole image, asked directly."""

    name: str = "full pass"
    retention: None = None

    def ready(self, look: Look) -> Ready:
        """See `Way.ready`."""
        prefix = look.subject.prefix(look.case.image)
        texts = [look.subject.after_image(question.text) for question in look.case.questions]
        return Ready(prefix.keys, prefix.values, prefix.next_position, texts)


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

    def ready(self, look: Look) -> Ready:
        """See `Way.ready`."""
        packed = look.described.packed(self.kept(look), look.subject.runner.inv_freq)
        return Ready(packed.keys, packed.values, packed.tokens, look.after_context)

    def kept(self, look: Look) -> Tensor:
        """Which of the image tokens stay, `[1 or layers, kept]`."""
        scores = look.scores(range(*self.window), self.rows)
        keep = kept_count(self.retention, scores.tokens) if self.retention else 0
        if self.selection == "oracle":
            return oracle(look.case.scene, scores.grid, keep)
        options = {} if self.seed is None else {"seed": crc32(f"{self.seed} {look.case.name}".encode())}
        return get_selection(self.selection, **options).select(scores, keep)


@dataclass(frozen=True)
class ImageOnly(Context):
    """A compressed context without any of the prompt's text: the kept image tokens alone."""

    def ready(self, look: Look) -> Ready:
        """See `Way.ready`."""
        described, kept = look.described, self.kept(look)
        index = described.prompt.image_positions[kept][:, None, :, None].to(described.keys.device)
        keys, values = (torch.take_along_dim(each, index, dim=2) for each in (described.keys, described.values))
        tokens = kept.shape[1]
        turned = rotate_keys(keys, look.subject.runner.inv_freq, tokens - described.next_position)
        return Ready(turned, values, tokens, look.after_context)


@dataclass(frozen=True)
class CaptionOnly:
    """The description as text, as what the same model said in an earlier turn; no image at all."""

    name: str = "caption only"
    retention: None = None

    def ready(self, look: Look) -> Ready:
        """See `Way.ready`."""
        subject = look.subject
        said = (Turn("user", subject.describe_prompt), Turn("assistant", _plain(look.described.text, subject)))
        asked = [Conversation((*said, Turn("user", text))) for text in ("?", *(q.text for q in look.case.questions))]
        ids = [subject.prompts.full_ids(one) for one in asked]
        shared = [same[0] for same in takewhile(lambda same: len({*same}) == 1, zip(*ids, strict=False))]
        text = Prompt({"input_ids": torch.tensor([shared])}, torch.empty(0, dtype=torch.int64), (0, 0))
        state = subject.runner.prefill(text)
        tokens = len(shared)
        return Ready(*stacked(state.cache, tokens), tokens, [one[tokens:] for one in ids[1:]])


def _plain(text: str, subject: Subject) -> str:
    """A description without what stands for images or videos, should a model have generated that."""
    for stand_in, _ in subject.prompts.placeholder_tokens.kinds:
        text = text.replace(stand_in, "")
    return text

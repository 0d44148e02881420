"""The training objective: answers, and two auxiliary losses.

The auxiliary losses make a small model see within minutes.

- patch loss: a linear head tells for each patch what it shows (kind, colour, size, centre, region);
- alignment loss: a projected patch points at the word embeddings of what it shows, so that looking a thing up by
  its name starts near the solution. Without it, "what color is the square" stays at chance for long.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lookonce_scenes.forms import Exercise
from lookonce_scenes.model import WIDTH, normalise
from lookonce_scenes.packing import CATEGORIES, DESCRIPTION_WEIGHT, IGNORE, MAX_SEGMENTS, Sample
from lookonce_scenes.world import SIZES, WIDE, Scene, render

_CLASSES = (1 + len(WIDE.kinds), 1 + len(WIDE.colors), 1 + len(SIZES), 2, 10, 3)
_BACKGROUND_WEIGHT = 0.15
_ALIGNMENT_TEMPERATURE = 12.0


class Batch(NamedTuple):
    """Stacked samples of one exercise; see `packing.Sample`."""

    pixels: Tensor  # [batch, pictures, height, width, 3] uint8
    is_joint: Tensor  # whether pictures see those before them
    head: Tensor  # [batch, head]
    ids: Tensor  # [batch, text]
    positions: Tensor  # [batch, rows]
    segments: Tensor  # [batch, rows]
    labels: Tensor  # [batch, text]
    weights: Tensor  # [batch, text]
    kinds: Tensor  # [batch, segments]
    visible: Tensor  # [batch, segments, segments]
    image_kept: Tensor  # [batch, segments, pictures x image tokens]
    patches: Tensor  # [batch, pictures, patch rows, image tokens]


def stack(packed: Sequence[tuple[Sequence[Scene], Sample]], exercise: Exercise) -> Batch:
    """Stack the packed samples of one exercise, and draw their pictures."""
    pixels = [torch.stack([torch.from_numpy(render(scene)) for scene in scenes]) for scenes, _ in packed]
    columns = zip(*(sample for _, sample in packed), strict=True)
    stacked = [torch.stack([torch.from_numpy(array) for array in column]) for column in columns]
    return Batch(torch.stack(pixels), torch.tensor(exercise.is_joint), *stacked)


class Losses(NamedTuple):
    """One step's losses and accuracies; `total` is the one to descend."""

    total: Tensor
    description: Tensor
    answers: Tensor
    patch: Tensor
    kind_accuracy: Tensor  # of the patches that show an object
    alignment: Tensor
    right: Tensor  # [categories] answers that are right to the last token
    asked: Tensor  # [categories]


class Objective(nn.Module):
    """The model with what only its training needs: the patch head."""

    _kinds: Tensor
    _colors: Tensor
    _sizes: Tensor

    def __init__(self, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(WIDTH, sum(_CLASSES))
        nn.init.normal_(self.patch_head.weight, std=WIDTH**-0.5)
        self._eos = tokenizer.eos_token_id
        for name, words in (("kinds", WIDE.kinds), ("colors", WIDE.colors), ("sizes", SIZES)):
            ids = [tokenizer.encode(f" {w}", add_special_tokens=False) for w in ("nothing", *words)]
            self.register_buffer(f"_{name}", torch.tensor([i for (i,) in ids]), persistent=False)

    def see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return patches, patch loss, kind accuracy and alignment loss.

        The patches are projected: `[batch, pictures x image tokens, width]`.
        """
        size = len(batch.pixels)
        patches = batch.patches.flatten(0, 1)
        features = self.model.model.vision_tower(normalise(batch.pixels.flatten(0, 1))).last_hidden_state[:, 1:]
        projected = self.model.model.multi_modal_projector(features)
        patch, accuracy = _patch_loss(self.patch_head(features), patches)
        alignment = self._alignment_loss(projected, patches)
        return projected.reshape(size, -1, projected.shape[-1]), patch, accuracy, alignment

    def see_only(self, batch: Batch) -> Losses:
        """Train the tower, the projector and the words' embeddings: the first stage."""
        _, patch, accuracy, alignment = self.see(batch)
        zero = torch.zeros((), device=patch.device)
        none = zero.expand(len(CATEGORIES))
        return Losses(patch + 0.2 * alignment, zero, zero, patch, accuracy, alignment, none, none)

    def forward(self, batch: Batch) -> Losses:
        """All of it: describe turns and answers, with the auxiliary losses at low weight."""
        projected, patch, accuracy, alignment = self.see(batch)
        hidden = self._language(batch, projected)
        labelled = batch.labels != IGNORE
        logits = self.model.lm_head(hidden[labelled]).float()
        labels, weights = batch.labels[labelled], batch.weights[labelled]
        losses = F.cross_entropy(logits, labels, reduction="none")
        total = (losses * weights).sum() / weights.sum() + 0.15 * patch + 0.2 * alignment
        # The describe turn's last row predicts the description's first token, always "A": it counts as an answer.
        described = weights == DESCRIPTION_WEIGHT
        description, answers = (losses[rows].mean().detach() for rows in (described, ~described))
        right, asked = _count_right(batch, labelled, logits.argmax(-1) != labels)
        return Losses(total, description, answers, patch, accuracy, alignment, right, asked)

    def _language(self, batch: Batch, projected: Tensor) -> Tensor:
        """Hidden states of the text rows, `[batch, text, width]`."""
        language = self.model.model.language_model
        embed = language.get_input_embeddings()
        embeddings = torch.cat([embed(batch.head), projected.to(embed.weight.dtype), embed(batch.ids)], 1)
        hidden = language(
            inputs_embeds=embeddings,
            attention_mask=_mask(batch),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        rows: Tensor = hidden[:, -batch.ids.shape[1] :]
        return rows

    def _alignment_loss(self, projected: Tensor, patches: Tensor) -> Tensor:
        words = F.normalize(self.model.model.language_model.get_input_embeddings().weight.float(), dim=-1)
        similar = F.linear(F.normalize(projected.float(), dim=-1), words) * _ALIGNMENT_TEMPERATURE
        rows = (self._kinds[patches[:, 0]], self._colors[patches[:, 1]], self._sizes[patches[:, 2]])
        losses = -F.log_softmax(similar, -1).gather(-1, torch.stack(rows, -1)).mean(-1)
        weights = torch.where(patches[:, 0] > 0, 1.0, 0.1)
        return (losses * weights).sum() / weights.sum()


def _patch_loss(logits: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    shown = patches[:, 0] > 0
    weights = torch.where(shown | (patches[:, 3] > 0), 1.0, _BACKGROUND_WEIGHT)
    total = torch.zeros((), device=logits.device)
    parts = logits.float().split(_CLASSES, -1)
    for row, part in enumerate(parts):
        losses = F.cross_entropy(part.flatten(0, 1), patches[:, row].flatten(), reduction="none").view_as(weights)
        total = total + (losses * weights).sum() / weights.sum()
    accuracy = ((parts[0].argmax(-1) == patches[:, 0]) & shown).sum() / shown.sum()
    return total, accuracy


def _mask(batch: Batch) -> Tensor:
    """Additive mask, `[batch, 1, masked rows, rows]`: which segments, and which image tokens, each row sees.

    The masked rows are all of them where pictures see each other, else the text's alone.

    """
    (size, rows), text = batch.segments.shape, batch.ids.shape[1]
    first = 0 if batch.is_joint else rows - text
    samples = torch.arange(size, device=batch.ids.device)[:, None]
    of_rows, of_columns = batch.segments[:, first:, None], batch.segments[:, None, :]
    seen = batch.visible[samples[..., None], of_rows, of_columns]
    later = torch.ones(rows, rows, dtype=torch.bool, device=seen.device).triu(1)[first:]
    seen &= ~((of_rows == of_columns) & later)
    head = batch.head.shape[1]
    seen[:, -text:, head : rows - text] &= batch.image_kept[samples, batch.segments[:, -text:]]
    return torch.zeros(seen.shape, dtype=torch.bfloat16, device=seen.device).masked_fill_(~seen, -1e4)[:, None]


def _count_right(batch: Batch, labelled: Tensor, is_wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Count by category the segments with an answer, and those whose answer is right as a whole."""
    size, text = batch.ids.shape
    segments = batch.segments[:, -text:] + torch.arange(size, device=batch.ids.device)[:, None] * MAX_SEGMENTS
    labels, wrong = (torch.zeros(size * MAX_SEGMENTS, device=batch.ids.device) for _ in range(2))
    labels.index_add_(0, segments[labelled], torch.ones_like(is_wrong, dtype=labels.dtype))
    wrong.index_add_(0, segments[labelled], is_wrong.to(wrong.dtype))
    answered = labels > 0
    asked = torch.bincount(batch.kinds.flatten()[answered], minlength=len(CATEGORIES))
    right = torch.bincount(batch.kinds.flatten()[answered & (wrong == 0)], minlength=len(CATEGORIES))
    return right, asked

"""The training objective: answers, and two auxiliary losses.

The auxiliary losses make a small model see within minutes.

- patch loss: a linear head tells for each patch what it shows (kind, colour, size, centre, region);
- alignment loss: a projected patch points at the word embeddings of what it shows, so that looking a thing up by
  its name starts near the solution. Without it, "what color is the square" stays at chance for long.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lookonce_scenes.model import WIDTH, normalise
from lookonce_scenes.packing import IGNORE
from lookonce_scenes.world import COLORS, KINDS, SIZES

_CLASSES = (1 + len(KINDS), 1 + len(COLORS), 1 + len(SIZES), 2, 10)
_BACKGROUND_WEIGHT = 0.15
_ALIGNMENT_TEMPERATURE = 12.0
_DESCRIPTION = 2


class Batch(NamedTuple):
    """Stacked samples of one prefix; see `packing.Sample`."""

    prefix: Tensor  # [prefix]
    pixels: Tensor  # [batch, height, width, 3] uint8
    ids: Tensor  # [batch, text]
    positions: Tensor  # [batch, text]
    segments: Tensor  # [batch, text]
    labels: Tensor  # [batch, text]
    visible: Tensor  # [batch, segments, segments]
    image_kept: Tensor  # [batch, segments, image tokens]
    patches: Tensor  # [batch, 5, image tokens]


class Losses(NamedTuple):
    """One step's losses and accuracies; `total` is the one to descend."""

    total: Tensor
    description: Tensor
    answers: Tensor
    answer_accuracy: Tensor  # of tokens, end tokens left out
    patch: Tensor
    kind_accuracy: Tensor  # of the patches that show an object
    alignment: Tensor


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
        for name, words in (("kinds", KINDS), ("colors", tuple(COLORS)), ("sizes", SIZES)):
            ids = [tokenizer.encode(f" {w}", add_special_tokens=False) for w in ("nothing", *words)]
            self.register_buffer(f"_{name}", torch.tensor([i for (i,) in ids]), persistent=False)

    def see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return patches, patch loss, kind accuracy and alignment loss.

        The patches are projected: `[batch, image tokens, width]`.
        """
        features = self.model.model.vision_tower(normalise(batch.pixels)).last_hidden_state[:, 1:]
        projected = self.model.model.multi_modal_projector(features)
        patch, accuracy = _patch_loss(self.patch_head(features), batch.patches)
        return projected, patch, accuracy, self._alignment_loss(projected, batch.patches)

    def see_only(self, batch: Batch) -> Losses:
        """Train the tower, the projector and the words' embeddings: the first stage."""
        _, patch, accuracy, alignment = self.see(batch)
        zero = torch.zeros((), device=patch.device)
        return Losses(patch + 0.2 * alignment, zero, zero, zero, patch, accuracy, alignment)

    def forward(self, batch: Batch) -> Losses:
        """All of it: describe turns and answers, with the auxiliary losses at low weight."""
        projected, patch, accuracy, alignment = self.see(batch)
        hidden = self._language(batch, projected)
        labelled = batch.labels != IGNORE
        logits = self.model.lm_head(hidden[labelled]).float()
        labels = batch.labels[labelled]
        described = batch.segments[labelled] == _DESCRIPTION
        # The describe turn's last row predicts the description's first token, always "A": it counts as an answer.
        losses = F.cross_entropy(logits, labels, reduction="none")
        weights = torch.where(described, 0.5, 1.0)
        answers = ~described & (labels != self._eos)
        right = (logits.argmax(-1) == labels)[answers].float().mean()
        total = (losses * weights).sum() / weights.sum() + 0.15 * patch + 0.2 * alignment
        described_loss, answer_loss = losses[described].mean().detach(), losses[~described].mean().detach()
        return Losses(total, described_loss, answer_loss, right, patch, accuracy, alignment)

    def _language(self, batch: Batch, projected: Tensor) -> Tensor:
        """Hidden states of the text rows, `[batch, text, width]`."""
        language, size = self.model.model.language_model, len(batch.ids)
        prefix = len(batch.prefix)
        embed = language.get_input_embeddings()
        head = embed(batch.prefix[: prefix - projected.shape[1]]).expand(size, -1, -1)
        embeddings = torch.cat([head, projected.to(head.dtype), embed(batch.ids)], 1)
        places = torch.arange(prefix, device=batch.ids.device).expand(size, -1)
        hidden = language(
            inputs_embeds=embeddings,
            attention_mask=_text_mask(batch),
            position_ids=torch.cat([places, batch.positions], 1),
            use_cache=False,
        ).last_hidden_state
        rows: Tensor = hidden[:, prefix:]
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


def _text_mask(batch: Batch) -> Tensor:
    """Additive mask of the text rows, `[batch, 1, text, prefix + text]`.

    Which segments, and which image tokens, each sees.

    """
    size, text = batch.ids.shape
    prefix = len(batch.prefix)
    rows = torch.arange(size, device=batch.ids.device)[:, None]
    columns = torch.cat([torch.zeros_like(batch.prefix).expand(size, -1), batch.segments], 1)
    seen = batch.visible[rows[..., None], batch.segments[:, :, None], columns[:, None, :]]
    seen[:, :, prefix:] &= torch.ones(text, text, dtype=torch.bool, device=seen.device).tril()
    images = batch.image_kept.shape[-1]
    seen[:, :, prefix - images : prefix] &= batch.image_kept[rows, batch.segments]
    return torch.zeros(seen.shape, dtype=torch.bfloat16, device=seen.device).masked_fill_(~seen, -1e4)[:, None]

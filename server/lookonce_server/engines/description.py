"""Turn a recorded describe pass into a description, in every engine."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_pruning import (
    ImageScores,
    Rope,
    TileLayout,
    compress,
    get_selection,
    kept_columns,
    kept_count,
    rotate_keys,
)
from lookonce_server.engines.prompts import DescribeTurn, common_prefix


class Description(NamedTuple):
    """A description and the compressed image that it was made of."""

    text: str
    keys: Tensor  # of the tokens kept, without the prefix: [layers, kv_heads, tokens, head_dim], packed, on the CPU
    values: Tensor  # like keys
    num_prefix_tokens: int  # before the image
    template_digest: str  # of the turn that the pass began with; see `Engine.template_digest`
    position_shift: int  # positions by which the keys were rotated
    kept: Tensor  # [1 or layers, kept], int32, ascending
    scores: Tensor  # [image tokens], float32: mean attention over the window
    grid: tuple[int, ...]  # of the image tokens, see `ImageScores`
    prompt_tokens: int  # of the whole prompt before compression
    layout: TileLayout | None = None  # of the image tokens, see `ImageScores`
    # Of recurrent layers, after the whole prompt and with its prefix, on the CPU: [recurrent layers, ...].
    states: Mapping[str, Tensor] = MappingProxyType({})
    generated_tokens: int = 0
    recomputed_tokens: int = 0  # run through the model again, for the rows that score


class PackedPrompt(NamedTuple):
    """A describe prompt of which some image tokens are kept; all tensors on the CPU."""

    keys: Tensor  # [layers, kv_heads, tokens, head_dim], at packed positions
    values: Tensor  # like keys
    position_shift: int  # positions by which the keys were rotated
    kept: Tensor  # [1 or layers, kept], int32, ascending
    scores: Tensor  # [image tokens], float32: mean attention over the window
    grid: tuple[int, ...]  # of the image tokens
    layout: TileLayout | None = None  # of the image tokens

    def describe(
        self,
        text: str,
        turn: DescribeTurn,
        prompt_ids: Sequence[int],
        states: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Description:
        """Build the description, without the tokens before the image.

        The model keeps those itself.

        Args:
            text: generated.
            turn: that the pass began with.
            prompt_ids: of the describe prompt, a token for each of the image's.
            states: of recurrent layers after the prompt, if the model has any.
        """
        prefix = len(common_prefix(turn.prefix, prompt_ids))
        return Description(
            text=text.strip(),
            keys=self.keys[:, :, prefix:].contiguous(),
            values=self.values[:, :, prefix:].contiguous(),
            num_prefix_tokens=prefix,
            template_digest=turn.digest,
            position_shift=self.position_shift,
            kept=self.kept,
            scores=self.scores,
            grid=self.grid,
            prompt_tokens=len(prompt_ids),
            layout=self.layout,
            states=states,
        )

    def as_tensors(self) -> dict[str, Tensor]:
        """Return the fields as tensors, for a file."""
        numbers = {
            "position_shift": torch.tensor(self.position_shift),
            "grid": torch.tensor(self.grid),
            "layout": torch.tensor(self.layout.blocks if self.layout else [], dtype=torch.float64),
        }
        return self._asdict() | numbers

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> "PackedPrompt":
        """Build the prompt from the tensors of `as_tensors`."""
        blocks = tensors["layout"].tolist()
        numbers = {
            "position_shift": int(tensors["position_shift"]),
            "grid": tuple(tensors["grid"].tolist()),
            "layout": TileLayout.of(blocks) if blocks else None,
        }
        return cls(**tensors | numbers)  # type: ignore[arg-type]


def pack_prompt(
    scores: ImageScores,
    keys: Tensor,
    values: Tensor,
    *,
    selection: str,
    retention: float,
    prompt_length: int,
    image_positions: Tensor,
    rope: Rope,
    next_position: int,
) -> PackedPrompt:
    """Select image tokens by their scores, and pack the prompt around them.

    Args:
        scores: of the image tokens.
        keys: [layers, kv_heads, >= prompt_length, head_dim], after RoPE; what follows the prompt is dropped.
        values: like keys.
        selection: name of the method.
        retention: share of the image tokens kept.
        prompt_length: tokens of the describe prompt.
        image_positions: [image tokens], int64, ascending: where they stand in the prompt.
        rope: of the model.
        next_position: RoPE position of the token after the prompt.

    Raises:
        UnknownSelectionError: there is no such method.
    """
    kept = get_selection(selection).select(scores, kept_count(retention, scores.tokens))
    packed = compress(
        keys,
        values,
        prompt_length=prompt_length,
        image_positions=image_positions,
        kept=kept,
        rope=rope,
        next_position=next_position,
    )
    return _packed_prompt(scores, kept, packed.keys, packed.values, packed.position_shift)


class LayerRows(NamedTuple):
    """Keys and values of one layer at some positions of a prompt."""

    keys: Tensor  # [kv_heads, positions, head_dim], after RoPE
    values: Tensor  # like keys


def pack_rows(
    scores: ImageScores,
    read: Callable[[int, Tensor], LayerRows],
    *,
    selection: str,
    retention: float,
    prompt_length: int,
    image_positions: Tensor,
    rope: Rope,
    next_position: int,
) -> PackedPrompt:
    """Do what `pack_prompt` does, reading what is kept and nothing else, one layer at a time.

    Args:
        scores: of the image tokens.
        read: returns a layer's rows at positions of the prompt, [positions], int64.
        selection, retention, prompt_length, image_positions, rope, next_position: see `pack_prompt`.

    Raises:
        UnknownSelectionError: there is no such method.
    """
    kept = get_selection(selection).select(scores, kept_count(retention, scores.tokens))
    columns = kept_columns(prompt_length, image_positions, kept)
    position_shift = columns.shape[1] - next_position
    keys, values = [], []
    for layer in range(scores.num_layers):
        rows = read(layer, columns[layer % len(columns)])
        keys.append(rotate_keys(rows.keys, rope.of_layer(layer), position_shift).cpu())
        values.append(rows.values.cpu())
    return _packed_prompt(scores, kept, torch.stack(keys), torch.stack(values), position_shift)


def _packed_prompt(
    scores: ImageScores, kept: Tensor, keys: Tensor, values: Tensor, position_shift: int
) -> PackedPrompt:
    return PackedPrompt(
        keys=keys.cpu().contiguous(),
        values=values.cpu().contiguous(),
        position_shift=position_shift,
        kept=kept.to(torch.int32).cpu().contiguous(),
        scores=scores.values.mean(dim=0),
        grid=scores.grid,
        layout=scores.layout,
    )

"""Turn a recorded describe pass into a description, in every engine."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_pruning import ImageScores, Rope, TileLayout, compress, get_selection, kept_count
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
    prompt_passes: int = 1  # how often the prompt was run through the model


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
    return PackedPrompt(
        keys=packed.keys.cpu().contiguous(),
        values=packed.values.cpu().contiguous(),
        position_shift=packed.position_shift,
        kept=kept.to(torch.int32).cpu().contiguous(),
        scores=scores.values.mean(dim=0),
        grid=scores.grid,
        layout=scores.layout,
    )

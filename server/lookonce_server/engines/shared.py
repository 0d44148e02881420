"""The tokens before the image: the same in every context of a model, so the model keeps them, and contexts do not.

They attend to nothing that comes after them, so their keys and values are those of a text; the self-check of each
engine shows it on the model. Only their positions differ from context to context: a context's keys were all moved when
it was packed, and those of the shared tokens are moved alike when it is used.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_pruning import rotate_keys
from lookonce_server.errors import ContextLostError


class DenseContext(NamedTuple):
    """All keys and values that an answer stands on, each `[layers, kv_heads, tokens, head_dim]`."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        """How many; also the position of the first token after them."""
        return self.keys.shape[2]


class SharedTokens(NamedTuple):
    """Keys and values of the tokens before the image, `[layers, kv_heads, tokens, head_dim]`, from position 0 on."""

    keys: Tensor
    values: Tensor
    inv_freq: Tensor  # [rotary_dim / 2], radians a position

    @property
    def tokens(self) -> int:
        """How many there are."""
        return self.keys.shape[2]

    def joined(self, keys: Tensor, values: Tensor, moved_by: int) -> DenseContext:
        """The shared tokens, moved as the others were, and these others, on the same device."""
        moved = rotate_keys(self.keys, self.inv_freq, moved_by)
        return DenseContext(torch.cat((moved, keys), dim=2), torch.cat((self.values, values), dim=2))

    def before(self, context: CompressedContext) -> DenseContext:
        """A context, whole again, on the device of the shared tokens.

        Raises:
            ContextLostError: the context was made with another number of shared tokens.
        """
        if context.shared_tokens != self.tokens:
            raise ContextLostError(
                f"The context goes with {context.shared_tokens} tokens before the image; this model has {self.tokens}."
            )
        device = self.keys.device
        return self.joined(context.keys.dense(device), context.values.dense(device), context.moved_by)

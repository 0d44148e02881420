"""Keep the tokens before the image in the model, and not in contexts.

They attend to nothing that comes after them, so their keys and values are those of a text; the self-check of each
engine shows it on the model. Only their positions differ from context to context: a context's keys were all moved when
it was packed, and those of the shared tokens are moved alike when it is used.

A template may print the date there. So which tokens they are belongs to a context's identity, and an engine computes
them anew when they change.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_pruning import rotate_keys
from lookonce_server.errors import ContextLostError, ContextOutdatedError

_MOST_PREFIXES = 2  # some templates have a thousand tokens, and each has keys and values in every layer


class DenseContext(NamedTuple):
    """All keys and values of an answer, `[layers, kv_heads, tokens, head_dim]`."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        """Count the tokens; also the position of the first token after them."""
        return self.keys.shape[2]


class PrefixKV(NamedTuple):
    """The tokens before the image, `[layers, kv_heads, tokens, head_dim]`.

    They are at positions from 0 on.
    """

    keys: Tensor
    values: Tensor
    inv_freq: Tensor  # [rotary_dim / 2], radians a position

    @property
    def tokens(self) -> int:
        """Count the tokens."""
        return self.keys.shape[2]

    def join(self, keys: Tensor, values: Tensor, position_shift: int) -> DenseContext:
        """Join the prefix, moved as the other tokens were, with those."""
        moved = rotate_keys(self.keys, self.inv_freq, position_shift)
        return DenseContext(torch.cat((moved, keys), dim=2), torch.cat((self.values, values), dim=2))

    def with_prefix(self, context: CompressedContext) -> DenseContext:
        """Return a context with its prefix, on the device of the prefix.

        It needs as many tokens as it was made with.

        Raises:
            ContextLostError: it was made with more.
        """
        count = context.shared_tokens
        if count > self.tokens:
            raise ContextLostError(
                f"The context goes with {count} tokens before the image; this model has {self.tokens}."
            )
        device = self.keys.device
        first = self._replace(keys=self.keys[:, :, :count], values=self.values[:, :, :count])
        return first.join(context.keys.dequantize(device), context.values.dequantize(device), context.moved_by)


class PrefixCache:
    """Keep the last prefixes: there are two when the date has just changed."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], PrefixKV] = OrderedDict()

    def get(self, prefix: tuple[int, ...]) -> PrefixKV | None:
        """Return the keys and values of a prefix, if they are kept."""
        kept = self._kept.get(prefix)
        if kept is not None:
            self._kept.move_to_end(prefix)
        return kept

    def keep(self, prefix: tuple[int, ...], shared: PrefixKV) -> PrefixKV:
        """Keep those of a prefix, in place of the least recently used."""
        self._kept[prefix] = shared
        while len(self._kept) > _MOST_PREFIXES:
            self._kept.popitem(last=False)
        return shared


def check_prefix(context: CompressedContext, rendered: str) -> None:
    """Raise ContextOutdatedError if a context's describe turn has changed.

    Args:
        context: that is to be used.
        rendered: digest of the describe turn that was rendered for it.
    """
    if context.identity.template_digest != rendered:
        raise ContextOutdatedError(
            "What the chat template prints around the image has changed since the context was made."
        )

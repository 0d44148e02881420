"""Keep the text before and between images in the model, and not in contexts.

It attends to no image, so its keys and values are those of a text; the self-check of each engine shows it on the model.
Only its positions differ from context to context: a context's keys were all moved when it was packed, and those of the
text are moved alike when it is used; see `join`.

A template may print the date there. So which tokens they are belongs to a context's identity, and an engine computes
them anew when they change.
"""

import itertools
from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_server.errors import ContextOutdatedError

_MOST_PREFIXES = 2  # some templates have a thousand tokens; there are two when the date has just changed
_MOST_SEAMS = 32  # of a few tokens each; one, unless a template numbers its images

_numbers = itertools.count(1)


class TextSpan(NamedTuple):
    """Tokens of a prompt that see themselves and the text before them."""

    ids: tuple[int, ...]
    before: tuple[int, ...] = ()


class DenseContext(NamedTuple):
    """All keys and values of an answer, `[layers, kv_heads, tokens, head_dim]`."""

    keys: Tensor
    values: Tensor

    @property
    def tokens(self) -> int:
        """Count the tokens; also the position of the first token after them."""
        return self.keys.shape[2]


class TextKV(NamedTuple):
    """Keys and values of a text span, `[layers, kv_heads, tokens, head_dim]`.

    They are at the positions that follow the text before it, which begins at 0.
    """

    keys: Tensor
    values: Tensor
    number: int = 0  # of those that a cache has kept: computed again, they may differ in a bit

    @property
    def tokens(self) -> int:
        """Count the tokens."""
        return self.keys.shape[2]


class TextCache:
    """Keep the keys and values of the last prefixes, and of the last seams."""

    def __init__(self) -> None:
        self._prefixes: OrderedDict[TextSpan, TextKV] = OrderedDict()
        self._seams: OrderedDict[TextSpan, TextKV] = OrderedDict()

    def get(self, span: TextSpan) -> TextKV | None:
        """Return the keys and values of a span, if they are kept."""
        kept, _ = self._place(span)
        if span in kept:
            kept.move_to_end(span)
        return kept.get(span)

    def keep(self, span: TextSpan, whole: TextKV) -> TextKV:
        """Keep those of a span, in place of the least recently used.

        Args:
            span: of text.
            whole: of the text before it and of the span itself.
        """
        kept, most = self._place(span)
        # A copy lets go of the text before it.
        keys, values = (part[:, :, len(span.before) :].clone() for part in (whole.keys, whole.values))
        kept[span] = TextKV(keys, values, next(_numbers))
        while len(kept) > most:
            kept.popitem(last=False)
        return kept[span]

    def _place(self, span: TextSpan) -> tuple[OrderedDict[TextSpan, TextKV], int]:
        return (self._seams, _MOST_SEAMS) if span.before else (self._prefixes, _MOST_PREFIXES)


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

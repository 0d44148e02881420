"""Join contexts: the one way from stored contexts to the keys and values of an answer.

Images are described each behind its own copy of the template's prefix. Joined, the describe turns follow each other,
and the prefix is there once:

    prefix [image A] text A  seam [image B] text B  seam [image C] text C  conversation ...

A context's tokens have seen the prefix and themselves, and a seam, which is text, likewise. So all there is to do is to
move keys, which a rotation does exactly. Positions are those that this prompt would have with all images whole; then
all are shifted alike, so that the conversation begins at the position that equals the token count. One context is
joined with nothing, and moves not at all.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_pruning import Rope, rotate_keys
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.description import Description
from lookonce_server.engines.prefix import DenseContext, TextKV, TextSpan, check_prefix
from lookonce_server.engines.prompts import JoinedPrompt, PromptRenderer
from lookonce_server.errors import ContextLostError


class ContextSize(NamedTuple):
    """The place that a context takes."""

    num_prefix_tokens: int  # before its own
    tokens: int  # with the prefix; also the position that follows it, as its keys are stored
    position_shift: int  # positions by which its keys were moved when it was packed

    @classmethod
    def of_context(cls, context: CompressedContext) -> Self:
        """Return the size of a stored context."""
        return cls(context.shared_tokens, context.tokens, context.moved_by)

    @classmethod
    def of_description(cls, description: Description) -> Self:
        """Return the size of a context as it was just made."""
        prefix = description.num_prefix_tokens
        return cls(prefix, prefix + description.keys.shape[2], description.position_shift)

    @property
    def width(self) -> int:
        """Count the positions of its own tokens with the whole image."""
        return self.tokens - self.position_shift - self.num_prefix_tokens

    @property
    def packed_width(self) -> int:
        """Count its own tokens."""
        return self.tokens - self.num_prefix_tokens


class Layout(NamedTuple):
    """Rotations that bring joined contexts to their places, in positions."""

    prefix: int  # of the prefix, computed at the positions from 0 on
    seams: tuple[int, ...]  # of the seams, each computed behind the prefix
    contexts: tuple[int, ...]  # of the contexts' own keys, as they are stored
    tokens: int  # of all together; also the position that follows them
    extent: int  # positions from the first token to the one that follows them


def lay_out(sizes: Sequence[ContextSize], seams: Sequence[int], *, packed: bool = False) -> Layout:
    """Lay out contexts that follow each other.

    Args:
        sizes: of at least one context; the first one's prefix is that of all.
        seams: tokens before each context but the first.
        packed: whether each is as wide as it has tokens, for what would not fit the model's positions otherwise. Its
            kept image tokens stay as far apart as they were.
    """
    prefix = sizes[0].num_prefix_tokens
    widths = [size.packed_width if packed else size.width for size in sizes]
    tokens = prefix + sum(seams) + sum(size.packed_width for size in sizes)
    extent = prefix + sum(seams) + sum(widths)
    start = tokens - extent
    place = start + prefix
    seam_shifts, shifts = [], []
    for size, width, seam in zip(sizes, widths, (0, *seams), strict=True):
        seam_shifts.append(place - prefix)
        place += seam + width
        shifts.append(place - size.tokens)
    return Layout(start, tuple(seam_shifts[1:]), tuple(shifts), tokens, extent)


class Join(NamedTuple):
    """Contexts that are to be joined, and what follows them."""

    prefix: TextSpan
    seams: tuple[TextSpan, ...]  # before each context but the first
    layout: Layout
    num_prefix_tokens: int  # those of the prefix that the first context goes with
    after: list[int]  # ids of the end of the last describe turn and of the conversation
    turn_tokens: int  # of the contexts' describe turns, one for each whole image

    @property
    def tokens(self) -> int:
        """Count the prompt's tokens."""
        return self.layout.tokens + len(self.after)

    @property
    def spans(self) -> tuple[TextSpan, ...]:
        """Return the texts whose keys and values `combine` needs."""
        return (self.prefix, *self.seams)

    def combine(self, texts: Sequence[TextKV], contexts: Iterable[tuple[Tensor, Tensor]], rope: Rope) -> DenseContext:
        """Return all keys and values, on the device of the texts.

        Args:
            texts: keys and values of `spans`.
            contexts: the contexts' own keys and values, `[layers, kv_heads, tokens, head_dim]`.
            rope: of the model.
        """
        prefix = texts[0]
        cut = slice(self.num_prefix_tokens)
        texts = [TextKV(prefix.keys[:, :, cut], prefix.values[:, :, cut]), *texts[1:]]
        shifts = zip((self.layout.prefix, *self.layout.seams), self.layout.contexts, strict=True)
        keys, values = [], []
        for text, context, (text_shift, shift) in zip(texts, contexts, shifts, strict=True):
            keys += [_move(text.keys, rope, text_shift), _move(context[0], rope, shift)]
            values += [text.values, context[1]]
        return DenseContext(torch.cat(keys, dim=2), torch.cat(values, dim=2))


def plan_join(joined: JoinedPrompt, sizes: Sequence[ContextSize], max_tokens: int) -> Join:
    """Plan how contexts follow each other, and the conversation them.

    Args:
        joined: the text around them.
        sizes: of the contexts, in the same order.
        max_tokens: positions that the model was made for, and that all of its layers see at once.

    Raises:
        ContextLostError: a context does not go with this text.
    """
    prefix, num_prefix_tokens = joined.prefix, sizes[0].num_prefix_tokens
    seams = [_cut_seam(joined, at, size) for at, size in enumerate(sizes)][1:]
    layout = lay_out(sizes, list(map(len, seams)))
    if len(sizes) > 1 and layout.extent + len(joined.after) >= max_tokens:
        layout = lay_out(sizes, list(map(len, seams)), packed=True)
    return Join(
        prefix=TextSpan(prefix),
        seams=tuple(TextSpan(seam, prefix[:num_prefix_tokens]) for seam in seams),
        layout=layout,
        num_prefix_tokens=num_prefix_tokens,
        after=joined.after,
        turn_tokens=joined.turn_tokens,
    )


def join_contexts(
    prompts: PromptRenderer, contexts: Sequence[CompressedContext], conversation: Conversation, max_tokens: int
) -> Join:
    """Plan the join of a conversation's contexts.

    Args:
        prompts: of the model.
        contexts: of the conversation's images, in the order of their numbers.
        conversation: asks.
        max_tokens: positions that the model was made for.

    Raises:
        ContextOutdatedError: what the template prints around the images has changed.
        ContextLostError: a context does not go with the model's text.
    """
    if len(contexts) != max(1, conversation.num_images):
        raise ValueError(f"{len(contexts)} contexts were given for {conversation.num_images} images")
    kinds = [(context.identity.describe_prompt, context.frames) for context in contexts]
    turns = {kind: prompts.describe_turn(*kind) for kind in set(kinds)}
    for context, kind in zip(contexts, kinds, strict=True):
        check_prefix(context, turns[kind].digest)
    joined = prompts.join([turns[kind] for kind in kinds], conversation)
    return plan_join(joined, list(map(ContextSize.of_context, contexts)), max_tokens)


def _cut_seam(joined: JoinedPrompt, at: int, size: ContextSize) -> tuple[int, ...]:
    """Return the tokens before a context that are not its own.

    Processors that write more around an image than its tokens make the last tokens before it part of the context.
    """
    own = joined.prefix[size.num_prefix_tokens :]
    text = joined.seams[at - 1] if at else joined.prefix
    if size.num_prefix_tokens > len(joined.prefix) or own != text[len(text) - len(own) :]:
        raise ContextLostError(
            f"The context goes with {size.num_prefix_tokens} tokens before the image, of which this model has"
            f" {len(joined.prefix)}."
        )
    return text[: len(text) - len(own)]


def _move(keys: Tensor, rope: Rope, shift: int) -> Tensor:
    return rotate_keys(keys, rope, shift) if shift else keys

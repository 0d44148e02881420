"""Extend several sequences in one forward pass, without padding.

The new tokens of all sequences follow each other in one row, and so do the keys and values of all their caches. A mask
shows each token the columns of its own sequence alone; their order does not matter, since a key has its position in it.
So sequences of any lengths, with any numbers of new tokens, make one batch, and none is padded.

What a mask hides has weight zero, and zero times a value is zero only if that value is finite. So a step whose logits
are not numbers is taken again, each sequence by itself.
"""

import itertools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from lookonce_pruning import count_recurrent_layers, find_window
from lookonce_server.engines.transformers.model import ModelRunner

_MAX_NEW_TOKENS = 64  # of a sequence: each is a row of attention over the whole batch. A longer text runs by itself
_log = logging.getLogger(__name__)


class RunningSequence:
    """A sequence that grows.

    Args:
        cache: of its tokens, which a batch may take over.
        next_position: RoPE position of the next token.
    """

    def __init__(self, cache: DynamicCache, next_position: int) -> None:
        self.cache: DynamicCache | None = cache  # None while its tokens are in a batch
        self.next_position = next_position
        self.runs_alone = False  # a batch with it has failed


class Extension(NamedTuple):
    """New tokens of a sequence."""

    sequence: RunningSequence
    ids: list[int]


class NotNumbersError(Exception):
    """Raised if the logits of a batch are not numbers."""


class SequenceBatch:
    """Extend sequences of one model together.

    Args:
        runner: of a model that has no `layer_problem`.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._numbers = itertools.count()
        self._members: dict[RunningSequence, int] = {}  # their numbers
        self._clear()

    @torch.inference_mode()
    def extend(self, extensions: Sequence[Extension]) -> list[Tensor | Exception]:
        """Run new tokens of sequences, each once.

        Returns:
            For each sequence the logits `[vocabulary]` of the token to come, or its error, which no other one has.
        """
        together = [one for one in extensions if not one.sequence.runs_alone and len(one.ids) <= _MAX_NEW_TOKENS]
        logits = self._try_together(together) if len(together) > 1 else {}
        return [logits[one.sequence] if one.sequence in logits else self._extend_alone(one) for one in extensions]

    def remove(self, sequence: RunningSequence) -> None:
        """Free a sequence's memory: at the next step, or at once if it was the last one."""
        if self._members.pop(sequence, None) is not None:
            self._is_stale = True
            if not self._members:
                self._clear()

    def _clear(self) -> None:
        self._cache = DynamicCache()
        self._owners = self._tensor([])  # [columns of the cache], numbers of sequences
        self._is_stale = False  # there are columns of sequences that have left

    def _try_together(self, extensions: Sequence[Extension]) -> dict[RunningSequence, Tensor]:
        """Return the logits, or nothing if all must be run by themselves."""
        try:
            self._join([sequence for sequence, _ in extensions])
            return self._extend_together(extensions)
        except NotNumbersError:  # who is to blame shows when each runs alone
            return {}
        except torch.AcceleratorError:  # it can compute nothing more in this process
            raise
        except Exception:
            _log.exception("a batch of %d answers failed; each goes on by itself", len(extensions))
            for sequence, _ in extensions:
                sequence.runs_alone = True
            return {}

    def _extend_together(self, extensions: Sequence[Extension]) -> dict[RunningSequence, Tensor]:
        counts = [len(ids) for _, ids in extensions]
        new = self._tensor([self._members[sequence] for sequence, ids in extensions for _ in ids])
        owners = torch.cat([self._owners, new])
        positions = [self._runner.positions(sequence.next_position, len(ids)) for sequence, ids in extensions]
        output = self._runner.model(
            input_ids=self._tensor([token for _, ids in extensions for token in ids])[None],
            position_ids=torch.cat(positions, dim=-1),
            attention_mask=(owners == new[:, None]).tril(len(self._owners))[None, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=self._tensor([end - 1 for end in itertools.accumulate(counts)]),
        )
        logits = output.logits[0]
        if bool(logits.isnan().any()):
            raise NotNumbersError
        self._owners = owners
        for (sequence, _), count in zip(extensions, counts, strict=True):
            sequence.next_position += count
        return {sequence: row for (sequence, _), row in zip(extensions, logits, strict=True)}

    def _extend_alone(self, extension: Extension) -> Tensor | Exception:
        sequence, ids = extension
        try:
            state = self._runner.extend(self._own_cache(sequence), sequence.next_position, torch.tensor([ids]))
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return error
        sequence.next_position = state.next_position
        sequence.runs_alone |= bool(state.logits.isnan().any())
        return state.logits

    def _join(self, sequences: Sequence[RunningSequence]) -> None:
        """Take over caches, and let go of the columns of those that have left."""
        joining = [(one, one.cache) for one in sequences if one.cache is not None]
        if not joining and not self._is_stale:
            return
        columns = torch.isin(self._owners, self._tensor(list(self._members.values()))).nonzero().flatten()
        parts = [_layers(self._cache, columns), *(_layers(cache) for _, cache in joining)]
        joined = DynamicCache()
        for layer, tensors in enumerate(zip(*filter(None, parts), strict=True)):
            keys, values = (torch.cat(side, dim=2) for side in zip(*tensors, strict=True))
            joined.update(keys, values, layer)
        owners = [self._owners[columns]]
        for sequence, cache in joining:
            self._members[sequence] = next(self._numbers)
            owners.append(self._tensor([self._members[sequence]]).expand(cache.get_seq_length()))
            sequence.cache = None
        self._cache, self._owners, self._is_stale = joined, torch.cat(owners), False

    def _own_cache(self, sequence: RunningSequence) -> DynamicCache:
        """Return a sequence's cache, taken out of the batch if it is there."""
        if sequence.cache is None:
            sequence.cache = DynamicCache()
            columns = (self._owners == self._members[sequence]).nonzero().flatten()
            for layer, (keys, values) in enumerate(_layers(self._cache, columns)):
                sequence.cache.update(keys, values, layer)
            self.remove(sequence)
        return sequence.cache

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._runner.device)


def layer_problem(config: PreTrainedConfig) -> str | None:
    """Return the reason for which a model's sequences cannot be extended together.

    Args:
        config: of the text model.
    """
    if count := count_recurrent_layers(config):
        return f"{count} of its layers are recurrent"
    if find_window(config) or set(getattr(config, "layer_types", None) or ()) - {"full_attention", "attention"}:
        return "not all of its layers see all tokens"  # the batch's one mask would stand for theirs
    return None


def _layers(cache: DynamicCache, columns: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of a cache, of all columns or of some."""
    layers: list[Any] = cache.layers
    if columns is None:
        return [(layer.keys, layer.values) for layer in layers]
    return [(layer.keys[:, :, columns], layer.values[:, :, columns]) for layer in layers]

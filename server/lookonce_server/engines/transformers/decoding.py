"""From logits to pieces of text: sampling, incremental detokenising, stop texts."""

from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from lookonce_server.engines.base import FinishReason, Piece, Sampling

_COLDEST = 1e-4  # below it sampling is greedy: logits divided by less overflow


class Sampler:
    """Picks the next token: greedy at temperature 0, else from the top-p share of the tempered distribution."""

    def __init__(self, sampling: Sampling) -> None:
        self._greedy = sampling.temperature < _COLDEST
        self._warpers = LogitsProcessorList()
        if not self._greedy:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits: Tensor) -> int:
        """A token id, of logits `[vocabulary]`."""
        if self._greedy:
            return int(logits.argmax())
        warp: Any = self._warpers  # its types name legacy tensor classes
        scores = warp(torch.empty(1, 0, dtype=torch.long), logits.float().cpu()[None])
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self._generator))


class TextStream:
    """Turns token ids into pieces of text, holding back what may still become a stop text or a whole character."""

    def __init__(self, tokenizer: Any, sampling: Sampling, end_ids: frozenset[int]) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._end_ids = end_ids
        self._stop = sampling.stop
        self._left = sampling.max_tokens
        self._held = ""
        self._hold = max((len(text) - 1 for text in sampling.stop), default=0)

    def push(self, token: int) -> Piece:
        """The piece that a token completes; its text may be empty."""
        self._left -= 1
        if token in self._end_ids:
            return self._piece(self._held, "stop")
        self._held += self._decoder.step(self._backend, token) or ""
        cut = min((at for text in self._stop if (at := self._held.find(text)) >= 0), default=-1)
        if cut >= 0:
            return self._piece(self._held[:cut], "stop")
        if self._left <= 0:
            return self._piece(self._held, "length")
        ready = len(self._held) - self._hold
        return self._piece(self._held[:ready] if ready > 0 else "", None)

    def _piece(self, text: str, reason: FinishReason | None) -> Piece:
        self._held = self._held[len(text) :]
        return Piece(text, 1, reason)

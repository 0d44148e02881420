"""From logits to the next token."""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from lookonce_server.engines.base import Sampling

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

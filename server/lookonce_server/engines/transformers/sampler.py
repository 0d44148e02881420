"""Pick the next token from logits."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lookonce_server.engines.base import Sampling, TokenLogprob

_COLDEST = 1e-4  # below it sampling is greedy: logits divided by less overflow


class Sampler:
    """Pick an answer's tokens one after the other.

    Greedy at temperature 0, else from what min_p, top_k and top_p leave of the tempered distribution; in both cases the
    tokens picked before are penalised.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._greedy = sampling.temperature < _COLDEST
        self._logprobs = sampling.logprobs
        self._picked: list[int] = []
        self._processors = LogitsProcessorList()
        if sampling.logit_bias:
            self._processors.append(_Bias(dict(sampling.logit_bias)))
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._processors.append(_Penalties(sampling.presence_penalty, sampling.frequency_penalty))
        if not self._greedy:
            self._processors.extend(_warpers(sampling))
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits: Tensor) -> int:
        """Pick a token id from logits `[vocabulary]`."""
        scores = self._processed(logits) if self._processors else logits
        if self._greedy:
            token = int(scores.argmax())
        else:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        self._picked.append(token)
        return token

    def logprob(self, logits: Tensor, token: int) -> TokenLogprob | None:
        """Return a token's log-probability in logits `[vocabulary]`, if asked for."""
        if self._logprobs is None:
            return None
        logprobs = logits.float().log_softmax(-1)
        # Of the logits, as `pick` does: the subtraction may round neighbours to the same logprob.
        likeliest = logits.topk(min(self._logprobs, len(logits))).indices
        top = zip(likeliest.tolist(), logprobs[likeliest].tolist(), strict=True)
        return TokenLogprob(token, float(logprobs[token]), tuple(pair for pair in top if pair[1] > float("-inf")))

    def _processed(self, logits: Tensor) -> Tensor:
        process: Any = self._processors  # its types name legacy tensor classes
        picked = torch.tensor([self._picked], dtype=torch.long)
        return torch.as_tensor(process(picked, logits.float().cpu()[None])[0])


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    """List the processors of sampling, in vLLM's order."""
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


class _Bias(LogitsProcessor):
    """Add OpenAI's logit_bias to the logits of single tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._tokens = torch.tensor(list(bias))
        self._bias = torch.tensor(list(bias.values()))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores.index_add(1, self._tokens, self._bias[None])


class _Penalties(LogitsProcessor):
    """Apply OpenAI's presence and frequency penalty.

    transformers does not have them.

    Its `input_ids` `[1, picked]` are the answer's tokens alone, without the prompt.
    """

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence = presence
        self._frequency = frequency

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        ids, counts = input_ids[0].unique(return_counts=True)
        return scores.index_add(1, ids, -(self._frequency * counts + self._presence)[None])

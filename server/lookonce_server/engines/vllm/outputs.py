"""Read times, tokens and log-probabilities from vLLM's outputs."""

import time
from collections.abc import Mapping
from typing import Any

from vllm.outputs import RequestOutput

from lookonce_server.engines.base import TokenLogprob


def times(output: RequestOutput) -> tuple[float | None, float | None]:
    """Return the seconds in vLLM's queue and when the first step began, of a first output.

    vLLM's own clock may be another machine's: only its differences are used.
    """
    stats = output.metrics
    if stats is None or not 0 < stats.queued_ts <= stats.scheduled_ts <= stats.first_token_ts:  # it keeps none
        return None, None
    return stats.scheduled_ts - stats.queued_ts, time.monotonic() - (stats.first_token_ts - stats.scheduled_ts)


def scheduled_at(output: RequestOutput) -> float:
    """Return when vLLM's scheduler took the request up, monotonic; or now if vLLM keeps no times."""
    at = getattr(output.metrics, "scheduled_ts", 0.0)
    return at or time.monotonic()


def tier(output: RequestOutput) -> str | None:
    """Return "gpu" if vLLM's own cache still had the context's full blocks."""
    params = output.kv_transfer_params
    return params.get("tier") if params else None


def tokens(output: RequestOutput, logprobs: int | None) -> list[tuple[int, TokenLogprob | None]]:
    """Return the new tokens, with their log-probabilities if asked for."""
    completion = output.outputs[0]
    if logprobs is None or completion.logprobs is None:
        return [(token, None) for token in completion.token_ids]
    pairs = zip(completion.token_ids, completion.logprobs, strict=True)
    return [(token, _logprob(token, ranked, logprobs)) for token, ranked in pairs]


def _logprob(token: int, logprobs: Mapping[int, Any] | None, count: int) -> TokenLogprob | None:
    """Split vLLM's log-probabilities into the chosen token's and the top ones."""
    if logprobs is None:
        return None
    ranked = sorted(logprobs.items(), key=lambda item: item[1].rank)
    top = tuple((id_, entry.logprob) for id_, entry in ranked if entry.rank <= count and entry.logprob > float("-inf"))
    return TokenLogprob(token, logprobs[token].logprob, top)

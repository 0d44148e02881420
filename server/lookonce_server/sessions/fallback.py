"""Decide whether an answer from a context is certain enough to be sent.

The signal is the margin, in log-probability, of the likeliest token over the next: the smallest one among the answer's
first tokens. It is taken before temperature, penalties and biases, so it does not depend on how an answer is sampled,
and both engines have it. `lookonce eval fallback` measures how well it predicts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lookonce_server.engines.base import Piece, Sampling, Started
from lookonce_server.sessions.answer_streams import StartedAnswer
from lookonce_server.sessions.context_options import ContextOptions

Outcome = Literal["none", "full_pass", "no_image", "no_room"]
"""How a question with fallback was answered: from the context, which is certain enough; by the full pass; or from the
context although it is uncertain, since the image is not there, or its prompt does not fit the model."""

_RANKED = 2  # tokens whose log-probabilities make the margin


@dataclass(frozen=True, slots=True)
class Fallback:
    """When a question is asked again by the full pass.

    Attributes:
        by_default: whether fallback is on for requests that do not choose.
        margin: the smallest margin of a certain answer, in nats.
        tokens: number of first tokens that are checked; they are held back until then.
    """

    by_default: bool = False
    margin: float = 3.0
    tokens: int = 8

    def is_enabled(self, options: ContextOptions) -> bool:
        """Return whether a question may be asked again."""
        return self.by_default if options.fallback is None else options.fallback

    def is_uncertain(self, answers: Sequence[StartedAnswer]) -> bool:
        """Return whether one of a question's started answers is below the margin."""
        return any(least_margin(answer.first) < self.margin for answer in answers)


def least_margin(events: Iterable[Started | Piece]) -> float:
    """Return the smallest margin, in nats.

    It is 0 without tokens, and infinite if a schema leaves one token."""
    tops = [event.logprob.top for event in events if isinstance(event, Piece) and event.logprob]
    return min((top[0][1] - top[1][1] if len(top) > 1 else math.inf for top in tops), default=0.0)


def request_margin(sampling: Sampling) -> Sampling:
    """Add the log-probabilities that the margin needs to a sampling."""
    return replace(sampling, logprobs=max(sampling.logprobs or 0, _RANKED))


def strip_margin(event: Started | Piece, sampling: Sampling) -> Started | Piece:
    """Remove the log-probabilities that the client did not ask for.

    Args:
        event: of an answer that was sampled with `request_margin`.
        sampling: as the client asked for it.
    """
    if not isinstance(event, Piece) or event.logprob is None:
        return event
    if sampling.logprobs is None:
        return event._replace(logprob=None)
    return event._replace(logprob=event.logprob._replace(top=event.logprob.top[: sampling.logprobs]))

"""Whether an answer from a context is sure enough to be sent, or better asked again of the whole image.

The signal is the lead, in log-probability, of the likeliest token over the next: the least of the answer's first few
tokens. It is taken before temperature, penalties and biases, so that how an answer is sampled does not change it, and
both engines have it. `lookonce eval fallback` measures what it tells.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lookonce_server.engines.base import Piece, Sampling, Started
from lookonce_server.sessions.answer_streams import Begun
from lookonce_server.sessions.context_options import ContextOptions

Outcome = Literal["none", "full_pass", "no_image", "no_room"]
"""What became of a question that may be asked again: the context's answer is sure enough; the full pass answers; or it
would, but the image is not there, or its prompt does not fit the model."""

_RANKED = 2  # tokens whose log-probabilities are looked at


@dataclass(frozen=True, slots=True)
class Fallback:
    """When a question is asked again by the full pass.

    Attributes:
        by_default: whether questions are that do not say.
        margin: an answer is sure whose likeliest tokens lead by at least this, in nats.
        tokens: how many of an answer's first tokens are looked at; they are held back until then.
    """

    by_default: bool = False
    margin: float = 3.0
    tokens: int = 8

    def is_wanted(self, options: ContextOptions) -> bool:
        """Whether a question may be asked again."""
        return self.by_default if options.fallback is None else options.fallback

    def is_unsure(self, answers: Sequence[Begun]) -> bool:
        """Whether one of a question's answers, begun with the tokens to look at, is not sure enough."""
        return any(least_margin(one.events) < self.margin for one in answers)


def least_margin(events: Iterable[Started | Piece]) -> float:
    """The least lead of a likeliest token, in nats; 0 of an empty answer, infinite where a schema leaves no choice."""
    tops = [event.logprob.top for event in events if isinstance(event, Piece) and event.logprob]
    return min((top[0][1] - top[1][1] if len(top) > 1 else math.inf for top in tops), default=0.0)


def looked_into(sampling: Sampling) -> Sampling:
    """The same sampling, with the log-probabilities that the signal needs."""
    return replace(sampling, logprobs=max(sampling.logprobs or 0, _RANKED))


def as_asked(piece: Piece, sampling: Sampling) -> Piece:
    """A piece of an answer that was looked into, with the log-probabilities that the client asked for."""
    if sampling.logprobs is None or piece.logprob is None:
        return piece._replace(logprob=None)
    return piece._replace(logprob=piece.logprob._replace(top=piece.logprob.top[: sampling.logprobs]))

"""What was saved: counted with each answer, for its image and for the client."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from ._types import Answer


@dataclass(frozen=True)
class Saved:
    """What questions cost less than the ordinary way, so far.

    Attributes:
        questions: those answered.
        hits: those of them that were answered from a context that was there.
        prompt_tokens_saved: prompt tokens that were not run through the model.
        prompt_tokens_full: those that the ordinary way, the whole image for each question, would have run.
        bytes_not_sent: of images, as requests carry them (base64), where a context's id went in their place.
    """

    questions: int = 0
    hits: int = 0
    prompt_tokens_saved: int = 0
    prompt_tokens_full: int = 0
    bytes_not_sent: int = 0

    @property
    def share(self) -> float:
        """The share of prompt tokens saved, 0 to 1."""
        return self.prompt_tokens_saved / self.prompt_tokens_full if self.prompt_tokens_full else 0.0


class Tally:
    """Adds up what is saved; any number of threads may add.

    Args:
        whole: the tally that this one is a part of: it counts the same.
    """

    def __init__(self, whole: Tally | None = None) -> None:
        self._whole = whole
        self._lock = threading.Lock()
        self._saved = Saved()

    @property
    def saved(self) -> Saved:
        """What was saved so far."""
        return self._saved

    def add(self, answer: Answer, bytes_not_sent: int) -> None:
        """Count an answer."""
        with self._lock:
            before = self._saved
            self._saved = Saved(
                before.questions + 1,
                before.hits + answer.hit,
                before.prompt_tokens_saved + answer.tokens_saved,
                before.prompt_tokens_full + _full_tokens(answer),
                before.bytes_not_sent + bytes_not_sent,
            )
        if self._whole:
            self._whole.add(answer, bytes_not_sent)


def _full_tokens(answer: Answer) -> int:
    """The prompt tokens of the ordinary way; tokens that an engine's own cache had are part of them."""
    if not answer.tokens_saved:
        return answer.prompt_tokens
    return answer.prompt_tokens - answer.cached_tokens + answer.tokens_saved

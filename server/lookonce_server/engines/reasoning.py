"""Keep what a model thinks apart from what it answers.

Models that reason write "<think>...</think>" before an answer. Some templates open it in the prompt, so that the answer
begins inside of it; others leave that to the model.
"""

from dataclasses import dataclass
from typing import NamedTuple

START, END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The way in which a model reasons.

    Attributes:
        is_opened: whether the prompt ends inside the reasoning.
    """

    is_opened: bool


class Split(NamedTuple):
    """A piece of text, taken apart."""

    reasoning: str | None  # None: the piece belongs to the answer alone
    content: str


class ReasoningSplitter:
    """Take an answer's text apart as it is generated.

    Blanks around the reasoning are dropped. What may be the beginning of a mark is held back.
    """

    def __init__(self, form: ReasoningFormat) -> None:
        self._is_reasoning: bool | None = True if form.is_opened else None  # None: not known yet
        self._held = ""
        self._has_text = False  # whether the part that is written has begun

    def push(self, text: str, *, is_last: bool = False) -> Split:
        """Return what a piece of text, with the text held back before it, adds.

        Args:
            text: the next piece.
            is_last: nothing is held back then.
        """
        self._held += text
        if self._is_reasoning is None:
            self._find_start(is_last)
        if self._is_reasoning is None:
            return Split(None, "")
        if not self._is_reasoning:
            return Split(None, self._take(len(self._held)))
        before, end, after = self._held.partition(END)
        if end:
            self._held = before.rstrip()
            reasoning = self._take(len(self._held))
            self._held, self._is_reasoning, self._has_text = after, False, False
            return Split(reasoning, self._take(len(self._held)))
        return Split(self._take(len(self._held) if is_last else self._safe_length()), "")

    def _find_start(self, is_last: bool) -> None:
        """Tell whether the answer begins with reasoning, as soon as its text does."""
        begun = self._held.lstrip()
        if begun.startswith(START):
            self._is_reasoning, self._held = True, begun.removeprefix(START)
        elif is_last or not START.startswith(begun):
            self._is_reasoning = False
            self._has_text = True  # an answer without reasoning stays as it is

    def _safe_length(self) -> int:
        """Count the characters that no end of the reasoning, nor the blanks before it, can be part of."""
        text = self._held
        overlap = next((n for n in range(min(len(END) - 1, len(text)), 0, -1) if END.startswith(text[-n:])), 0)
        return len(text[: len(text) - overlap].rstrip())

    def _take(self, length: int) -> str:
        """Return that much of the text held back, without the blanks that a part begins with."""
        taken, self._held = self._held[:length], self._held[length:]
        if not self._has_text:
            taken = taken.lstrip()
            self._has_text = bool(taken)
        return taken

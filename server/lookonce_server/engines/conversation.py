"""Conversations free of any wire format, with at most one image."""

from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: who speaks.
        text: what is said; after the image, where there is one.
        has_image: whether the conversation's image belongs to this turn.
        before_image: what is said before it.
        name: of the speaker, for templates that show it.
    """

    role: Role
    text: str
    has_image: bool = False
    before_image: str = ""
    name: str | None = None

    @property
    def said(self) -> str:
        """Return all of the turn's text."""
        return "\n".join(filter(None, (self.before_image, self.text)))

    def as_message(self) -> dict[str, Any]:
        """Return the message as chat templates take it, its parts in order."""
        image = [{"type": "image"}] if self.has_image else []
        content = [*_text(self.before_image), *image, *_text(self.text)] or [{"type": "text", "text": ""}]
        return {"role": self.role, "content": content} | ({"name": self.name} if self.name else {})


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat, oldest turn first; its last turn but the system's is a question."""

    turns: tuple[Turn, ...]

    @property
    def has_image(self) -> bool:
        """Tell whether an image belongs to the conversation."""
        return any(turn.has_image for turn in self.turns)

    @property
    def length(self) -> int:
        """Count the characters of all its text."""
        return sum(len(turn.before_image) + len(turn.text) for turn in self.turns)

    def as_messages(self) -> list[dict[str, Any]]:
        """Return the messages as chat templates take them."""
        return [turn.as_message() for turn in self.turns]

    def after_image(self) -> list[dict[str, Any]]:
        """Return the messages as they follow a describe turn with the image.

        System text cannot stand in the middle of most templates, so it opens the first turn of the user's that follows.
        A turn that was the image alone has been said.
        """
        system = "\n".join(turn.text for turn in self.turns if turn.role == "system")
        spoken = [
            replace(turn, text=turn.said, before_image="", has_image=False)
            for turn in self.turns
            if turn.role != "system" and not (turn.has_image and not turn.said.strip())
        ]
        first = next((i for i, turn in enumerate(spoken) if turn.role == "user"), None)
        if system and first is not None:
            spoken[first] = replace(spoken[first], text=f"{system}\n{spoken[first].text}")
        return [turn.as_message() for turn in spoken]


def _text(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}] if text else []

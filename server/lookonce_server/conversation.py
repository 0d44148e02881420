"""What is asked, free of any wire format: turns of text, at most one of them with an image."""

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: who speaks.
        text: what is said.
        has_image: whether the conversation's image belongs to this turn.
    """

    role: Role
    text: str
    has_image: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat, oldest turn first; the last one is the user's question."""

    turns: tuple[Turn, ...]

    @property
    def has_image(self) -> bool:
        """Whether an image belongs to it."""
        return any(turn.has_image for turn in self.turns)

    def as_messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates take them, an image before its turn's text."""
        return [_message(turn) for turn in self.turns]

    def after_image(self) -> list[dict[str, Any]]:
        """The messages as they follow a describe turn that already showed the image.

        System text cannot stand in the middle of most templates, so it opens the first turn that follows. A turn that
        was the image alone has been said.
        """
        system = "\n".join(turn.text for turn in self.turns if turn.role == "system")
        spoken = [
            turn for turn in self.turns if turn.role != "system" and not (turn.has_image and not turn.text.strip())
        ]
        messages = [_message(Turn(turn.role, turn.text)) for turn in spoken]
        if system and messages:
            messages[0] = _message(Turn(spoken[0].role, f"{system}\n{spoken[0].text}"))
        return messages


def _message(turn: Turn) -> dict[str, Any]:
    image = [{"type": "image"}] if turn.has_image else []
    return {"role": turn.role, "content": [*image, {"type": "text", "text": turn.text}]}

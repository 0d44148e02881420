"""Conversations free of any wire format, and their images by number."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

from lookonce_server.engines.tools import Tool, ToolCall

Role = Literal["system", "user", "assistant", "tool"]
OWN = "own"  # marks a part whose text is the template's own, and no request's
PartsOf = Callable[[int], list[dict[str, Any]]]
"""Returns the parts of a message that show an image or a video."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Attributes:
        role: who speaks.
        parts: texts, and images by their numbers, in their order.
        name: of the speaker, for templates that show it; of a tool's turn, the function.
        calls: that the assistant made.
        call_id: of the call whose result a tool's turn is.
    """

    role: Role
    parts: tuple[str | int, ...]
    name: str | None = None
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None

    @property
    def text(self) -> str:
        """Return all of the turn's text."""
        return "\n".join(part for part in self.parts if isinstance(part, str) and part)

    @property
    def images(self) -> tuple[int, ...]:
        """Return the numbers of the turn's images."""
        return tuple(part for part in self.parts if isinstance(part, int))


@dataclass(frozen=True)
class Conversation:
    """A chat, oldest turn first; its last turn but the system's is a question, or a tool's result.

    Images are numbered from 0 in the order in which they come first. One that comes again is shown once, where it came
    first.

    Attributes:
        turns: the messages.
        videos: the numbers that are those of videos.
        tools: the functions that the model may call.
    """

    turns: tuple[Turn, ...]
    videos: frozenset[int] = frozenset()
    tools: tuple[Tool, ...] = ()

    @cached_property
    def num_images(self) -> int:
        """Count the different images."""
        return len({image for turn in self.turns for image in turn.images})

    @property
    def length(self) -> int:
        """Count the characters of all its text."""
        texts = sum(len(part) for turn in self.turns for part in turn.parts if isinstance(part, str))
        calls = sum(len(call.name) + len(call.arguments) for turn in self.turns for call in turn.calls)
        return texts + calls + sum(len(tool.parameters) + len(tool.description or "") for tool in self.tools)

    def as_messages(self, parts_of: PartsOf | None = None) -> list[dict[str, Any]]:
        """Return the messages as chat templates take them, parts in order.

        Args:
            parts_of: shows an image or a video by its number; by default as one image.
        """
        shown: set[int] = set()
        return [_message(turn, list(self._content(turn, shown, parts_of or _image_parts))) for turn in self.turns]

    def after_images(self, tools: str = "") -> list[dict[str, Any]]:
        """Return the messages as they follow the describe turns of all images.

        System text cannot stand in the middle of most templates, so it opens the first turn of the user's that follows,
        and so does the text of the tools.
        Where several images do not all come before any text, a mark tells where each one stood. A turn that was
        unmarked images alone, shown there first, has been said.

        Args:
            tools: the text in which the model is told of them.
        """
        system = "\n".join(turn.text for turn in self.turns if turn.role == "system")
        spoken: list[tuple[Turn, str]] = []
        shown: set[int] = set()
        for turn in self.turns:
            text = self._text(turn)
            if turn.role == "tool" and not text.strip():  # a call has its result, whatever it is
                text = "\n".join(map(self._mark, turn.images))
            if turn.role != "system" and (text.strip() or turn.role == "tool" or shown.issuperset(turn.images)):
                spoken.append((turn, text))
            shown.update(turn.images)
        first = next((i for i, (turn, _) in enumerate(spoken) if turn.role == "user"), None)
        if system and first is not None:
            turn, text = spoken[first]
            spoken[first] = turn, "\n".join(filter(None, (system, text)))
        messages = [_message(turn, [_text(text)]) for turn, text in spoken]
        if tools:
            if first is None:  # the user said nothing but images
                messages.insert(first := 0, {"role": "user", "content": [_text("")]})
            said = messages[first]["content"][0]["text"]
            messages[first]["content"] = [{**_text(tools), OWN: True}, *([_text(f"\n{said}")] if said else [])]
        return messages

    @cached_property
    def _has_marks(self) -> bool:
        """Tell whether text marks the places of images: several, not all before any text."""
        spoken = [part for turn in self.turns if turn.role != "system" for part in turn.parts]
        return self.num_images > 1 and any(isinstance(part, int) for part in spoken[self.num_images :])

    def _text(self, turn: Turn) -> str:
        """Return a turn's text, with marks in place of its images if there are marks."""
        texts = [part if isinstance(part, str) else self._mark(part) for part in turn.parts]
        return "\n".join(filter(None, texts)) if self._has_marks else turn.text

    def _mark(self, image: int) -> str:
        """Return the text that stands for an image or a video shown before."""
        return f"[{'video' if image in self.videos else 'image'} {image + 1}]"

    def _content(self, turn: Turn, shown: set[int], parts_of: PartsOf) -> Iterator[dict[str, Any]]:
        """Yield a turn's parts: an image where it comes first, a mark where it comes again; texts that meet are one."""
        for is_image, parts in groupby(turn.parts, lambda part: self._is_first(part, shown)):
            if is_image:
                yield from (shown_part for part in parts if isinstance(part, int) for shown_part in parts_of(part))
            elif text := "\n".join(filter(None, (self._spoken(part) for part in parts))):
                yield _text(text)

    def _is_first(self, part: str | int, shown: set[int]) -> bool:
        """Return whether a part is an image or a video that is shown itself."""
        if isinstance(part, str) or part in shown:
            return False
        shown.add(part)
        return True

    def _spoken(self, part: str | int) -> str:
        """Return the text shown for a part."""
        if isinstance(part, str):
            return part
        return self._mark(part) if self.num_images > 1 else ""


def _image_parts(image: int) -> list[dict[str, Any]]:
    return [{"type": "image"}]


def _message(turn: Turn, content: list[dict[str, Any]]) -> dict[str, Any]:
    message = {"role": turn.role, "content": content or [_text("")]} | ({"name": turn.name} if turn.name else {})
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.values}}
            for call in turn.calls
        ]
    return message if turn.call_id is None else message | {"tool_call_id": turn.call_id}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}

"""Describe the functions that a model may call, and its calls."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

_NAME = re.compile(r"[A-Za-z0-9_$.-]*")  # spells no control token
_DEPTH = 64  # of arguments within each other that are read as JSON


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: of the function.
        description: for the model.
        parameters: the JSON Schema of its arguments, as JSON text.
    """

    name: str
    description: str | None
    parameters: str

    def as_message(self) -> dict[str, Any]:
        """Return the tool as chat templates take it."""
        described = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **described, "parameters": json.loads(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an earlier answer made.

    Attributes:
        id: the client's name of it, by which its result is found.
        name: of the function.
        arguments: as the model wrote them, JSON if it did well.
    """

    id: str
    name: str
    arguments: str

    @property
    def values(self) -> Any:
        """Return the arguments as JSON's values, or their text where that is no object."""
        try:
            values = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return self.arguments
        return values if isinstance(values, dict) and not _is_deep(values) else self.arguments


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """The calls that an answer may make.

    Attributes:
        mode: auto: the model decides; required: at least one call, and no text; named: one call of `names[0]`.
        names: of the functions.
        is_parallel: whether it may make several.
    """

    mode: Literal["auto", "required", "named"]
    names: tuple[str, ...]
    is_parallel: bool = True


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a call: its name first, then its arguments."""

    index: int  # of the call in the answer
    name: str | None = None  # on the first piece only
    arguments: str = ""


def change_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Change the texts of a JSON value, but for names, which spell no control token and say what is what."""
    if isinstance(value, str):
        return value if _NAME.fullmatch(value) else change(value)
    if isinstance(value, dict):
        return {change_strings(name, change): change_strings(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [change_strings(part, change) for part in value]
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEPTH):
        nested = [part for part in level if isinstance(part, dict | list)]
        level = [part for node in nested for part in (node.values() if isinstance(node, dict) else node)]
    return bool(level)

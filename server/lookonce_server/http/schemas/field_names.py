"""Naming a request's fields and values in errors, as the client wrote them."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from lookonce_server.http.schemas.must_be_unset import NO_TOOLS

_LONGEST_NAME = 200


class _Short(reprlib.Repr):
    """Values in part. Of an object only the first names are looked at, where reprlib sorts all of them."""

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """See reprlib, which finds this by its name."""
        first = dict(islice(x.items(), self.maxdict + 1))
        return super().repr_dict(first, level)


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: Any) -> str:
    """A value, in part where it is long or deep."""
    text = _short.repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def furthest(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The validation error that got furthest into the request.

    A value may be of several kinds, and an error that is not about the kind is the one that helps; what is there and
    wrong tells more than what is missing. Tools come first: what else a client sends may be there for them alone.
    """

    def helps(error: Mapping[str, Any]) -> tuple[bool, int, bool, bool]:
        kind = error["type"]
        return kind == NO_TOOLS, len(error["loc"]), not kind.endswith("_type"), kind != "missing"

    return max(errors, key=helps)


def field_of(error: Mapping[str, Any], body: Any) -> str | None:
    """The field that a validation error is about: ("body", "messages", 0, "content", "str") as "messages[0].content".

    A location also names the branches of unions that were tried. They are no part of the body, and are left out.

    Args:
        error: pydantic's; its location begins with where the value was sent: "body", "query" or "path".
        body: of the request, as it was read.

    Returns:
        None where the error is about the body as a whole.
    """
    place, *parts = error["loc"]
    if place == "body" and isinstance(body, dict | list):
        parts = _within(body, parts, missing=error["type"] == "missing")
    return name_of(parts)


def name_of(parts: Iterable[str | int]) -> str | None:
    """Those steps into a body as a field's name, in part where it is long; None where there are none."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:_LONGEST_NAME]}" for part in parts).lstrip(".")
    return sendable(name)[:_LONGEST_NAME] or None


def sendable(text: str) -> str:
    """The same text without halves of characters, which JSON may contain and UTF-8 may not."""
    return text.encode(errors="backslashreplace").decode()


def _within(body: Any, parts: list[str | int], *, missing: bool) -> list[str | int]:
    """Those parts of a location that lead into the body, and the last one where that is what is missing."""
    found: list[str | int] = []
    for i, part in enumerate(parts):
        there = part in body if isinstance(body, dict) else isinstance(body, list) and part in range(len(body))
        if there:
            body = body[part]
        if there or (missing and i == len(parts) - 1):
            found.append(part)
    return found

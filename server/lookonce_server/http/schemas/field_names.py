"""Name a request's fields and values in errors, as the client wrote them."""

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

_LONGEST_NAME = 200


class _Short(reprlib.Repr):
    """Abbreviate values.

    Only the first names of an object are read, while reprlib sorts all of them.
    """

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """See reprlib, which finds this by its name."""
        first = dict(islice(x.items(), self.maxdict + 1))
        return super().repr_dict(first, level)


_short = _Short()
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: Any) -> str:
    """Return a value's text, abbreviated if it is long or deep."""
    text = _short.repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def furthest(errors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the validation error that got furthest into the request.

    Of a value that may have several types, an error that is not about the type helps most; a wrong value says more than
    a missing one.
    """

    def helps(error: Mapping[str, Any]) -> tuple[int, bool, bool]:
        kind = error["type"]
        return len(error["loc"]), not kind.endswith("_type"), kind != "missing"

    return max(errors, key=helps)


def field_of(error: Mapping[str, Any], body: Any) -> str | None:
    """Return the field of a validation error, as "messages[0].content".

    The error's location is ("body", "messages", 0, "content", "str") then: it also names the branches of unions that
    were tried, which are no part of the body.

    Args:
        error: pydantic's; its location begins with "body", "query" or "path".
        body: the request's body, parsed.

    Returns:
        None if the error is about the whole body.
    """
    place, *parts = error["loc"]
    if place == "body" and isinstance(body, dict | list):
        parts = _within(body, parts, missing=error["type"] == "missing")
    return name_of(parts)


def name_of(parts: Iterable[str | int]) -> str | None:
    """Return the name of a field given by its path; None for the body itself."""
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:_LONGEST_NAME]}" for part in parts).lstrip(".")
    return sendable(name)[:_LONGEST_NAME] or None


def sendable(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()


def _within(body: Any, parts: list[str | int], *, missing: bool) -> list[str | int]:
    """Return the parts of a location that are in the body, or missing in it."""
    inside: list[str | int] = []
    for i, part in enumerate(parts):
        exists = part in body if isinstance(body, dict) else isinstance(body, list) and part in range(len(body))
        if exists:
            body = body[part]
        if exists or (missing and i == len(parts) - 1):
            inside.append(part)
    return inside

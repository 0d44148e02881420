"""Parse JSON within bounds.

The cost of a text is known from its brackets, commas and quotes, before any value is built.

"""

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterable
from functools import reduce
from itertools import accumulate
from operator import getitem
from typing import Any, NoReturn

from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.schemas.field_names import name_of, shown

MAX_VALUES = 250_000  # in one body: enough for conversations that come back with all of their log-probabilities
MAX_NAMES = 5_000  # in one object
MAX_DEPTH = 100
MAX_DIGITS = 100  # of one number

_STRUCTURE = b"[]{},"
_OTHER_BYTES = bytes(set(range(256)) - set(_STRUCTURE))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_json(body: bytes) -> Any:
    """Parse a JSON text.

    The value has no infinite number, no lone surrogate, and no name twice in an object.

    Raises:
        InvalidRequestError: it is no JSON, or more of it, or deeper, than is read.
    """
    if not body or body.isspace():
        raise InvalidRequestError("The body is empty; send JSON.")
    _check_size(body)
    try:
        text = body.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"The body is not UTF-8, as JSON has to be: byte 0x{body[error.start]:02x} at position {error.start}."
        ) from None
    numbers = _Numbers()
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=numbers.integer,
            parse_float=numbers.number,
            parse_constant=numbers.number,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.") from None
    if not numbers.are_finite or b"\\ud" in body or b"\\uD" in body:
        check_leaves(value)
    return value


class _Numbers:
    """Parse numbers; one that is too long or too large becomes an infinite float."""

    def __init__(self) -> None:
        self.are_finite = True

    def integer(self, text: str) -> int | float:
        """Parse an integer."""
        return int(text) if len(text) <= MAX_DIGITS else self.number("inf")

    def number(self, text: str) -> float:
        """Parse any other number, "Infinity" and "NaN" included."""
        number = float(text) if len(text) <= MAX_DIGITS else math.inf
        self.are_finite &= math.isfinite(number)
        return number


def _check_size(body: bytes) -> None:
    """Reject bodies of too many values or levels.

    Upper bounds, for which texts count too, are tried first.
    """
    openings = body.count(b"[") + body.count(b"{")
    if openings <= MAX_DEPTH and openings + body.count(b",") < MAX_VALUES:
        return
    outline = _outline(body)
    values = 1 + sum(map(outline.count, (b"[", b"{", b",")))
    if values > MAX_VALUES or len(outline) > 2 * MAX_VALUES:
        _reject_size()
    depth = max(accumulate(_STEPS[byte] for byte in outline.translate(None, b",")), default=0)
    if depth > MAX_DEPTH:
        raise InvalidRequestError(f"The body is nested {depth} deep; at most {MAX_DEPTH} is read.")


def _outline(body: bytes) -> bytes:
    """Return the brackets and commas outside of texts."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * MAX_VALUES:  # two of a value, and two of its name
        _reject_size()
    return b"".join(plain.split(b'"')[::2]).translate(None, _OTHER_BYTES)


def _reject_size() -> NoReturn:
    raise InvalidRequestError(f"The body has too many values; at most {MAX_VALUES} are read.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise InvalidRequestError(f"An object of the body has {len(pairs)} names; at most {MAX_NAMES} are read.")
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InvalidRequestError(f"An object of the body has the name {shown(twice)} more than once.")
    return value


def check_leaves(value: Any) -> None:
    """Reject infinite numbers, and lone surrogates in texts and names.

    No tokenizer takes a lone surrogate, and UTF-8 cannot send or store it. Every body is checked here, and only here.
    """
    path = _bad_leaf(value)
    if path is None:
        return
    name, leaf = name_of(path), reduce(getitem, path, value)
    why = f"a number must be finite, and have at most {MAX_DIGITS} digits"
    if not isinstance(leaf, float):
        why = "the text has a lone surrogate, half of a character"
    raise InvalidRequestError(f"{name or 'The body'}: {why} (given: {shown(leaf)}).", param=name)


def _bad_leaf(value: Any) -> list[str | int] | None:
    """Return the path to such a text or number, or to the object with such a name."""
    if isinstance(value, str):
        return [] if _has_surrogate(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else []
    if isinstance(value, dict):
        if any(map(_has_surrogate, value)):
            return []
        within: Iterable[tuple[str | int, Any]] = value.items()
    else:
        within = enumerate(value) if isinstance(value, list) else ()
    return next(([part, *path] for part, item in within if (path := _bad_leaf(item)) is not None), None)


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

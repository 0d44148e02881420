"""Reading JSON within bounds: what a text would cost to read is told by its brackets, commas and quotes alone.

So nothing is made of a text that is refused, however long it is.
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

MOST_VALUES = 250_000  # in one body: enough for conversations that come back with all of their log-probabilities
MOST_NAMES = 5_000  # in one object
MOST_DEPTH = 100
MOST_DIGITS = 100  # of one number

_STRUCTURE = b"[]{},"
_OTHER_BYTES = bytes(set(range(256)) - set(_STRUCTURE))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def parse_json(body: bytes) -> Any:
    """What a JSON text stands for. It has no infinite number, no name twice in an object, and no half of a character.

    Raises:
        InvalidRequestError: it is no JSON, or more of it, or deeper, than is read.
    """
    if not body or body.isspace():
        raise InvalidRequestError("The body is empty; JSON is expected.")
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
        _check_leaves(value)
    return value


class _Numbers:
    """Reads numbers; what is none, or too long, or too large, is a float that is not finite."""

    def __init__(self) -> None:
        self.are_finite = True

    def integer(self, text: str) -> int | float:
        """A whole number."""
        return int(text) if len(text) <= MOST_DIGITS else self.number("inf")

    def number(self, text: str) -> float:
        """Any other, and what JSON has no number for."""
        number = float(text) if len(text) <= MOST_DIGITS else math.inf
        self.are_finite &= math.isfinite(number)
        return number


def _check_size(body: bytes) -> None:
    """Refuse more values than are read, and deeper ones; both are first guessed from above, texts included."""
    openings = body.count(b"[") + body.count(b"{")
    if openings <= MOST_DEPTH and openings + body.count(b",") < MOST_VALUES:
        return
    outline = _outline(body)
    values = 1 + sum(map(outline.count, (b"[", b"{", b",")))
    if values > MOST_VALUES or len(outline) > 2 * MOST_VALUES:
        _refuse_size()
    depth = max(accumulate(_STEPS[byte] for byte in outline.translate(None, b",")), default=0)
    if depth > MOST_DEPTH:
        raise InvalidRequestError(f"The body is nested {depth} deep; at most {MOST_DEPTH} is read.")


def _outline(body: bytes) -> bytes:
    """The brackets and commas outside of texts."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * MOST_VALUES:  # two of a value, and two of its name
        _refuse_size()
    return b"".join(plain.split(b'"')[::2]).translate(None, _OTHER_BYTES)


def _refuse_size() -> NoReturn:
    raise InvalidRequestError(f"The body has too many values; at most {MOST_VALUES} are read.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise InvalidRequestError(f"An object of the body has {len(pairs)} names; at most {MOST_NAMES} are read.")
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise InvalidRequestError(f"The name {shown(twice)} stands more than once in an object of the body.")
    return found


def _check_leaves(value: Any) -> None:
    """Refuse what JSON can spell, or almost, and what can be neither computed with, tokenised, sent nor kept."""
    place = _bad_leaf(value)
    if place is None:
        return
    name, leaf = name_of(place), reduce(getitem, place, value)
    why = f"a number must be finite, and have at most {MOST_DIGITS} digits"
    if not isinstance(leaf, float):
        why = "the text has half of a character, a lone surrogate"
    raise InvalidRequestError(f"{name or 'The body'}: {why} (given: {shown(leaf)}).", param=name)


def _bad_leaf(value: Any) -> list[str | int] | None:
    """Where such a text or number is, or the object with such a name; None: nowhere."""
    if isinstance(value, str):
        return [] if _is_torn(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else []
    if isinstance(value, dict):
        if any(map(_is_torn, value)):
            return []
        within: Iterable[tuple[str | int, Any]] = value.items()
    else:
        within = enumerate(value) if isinstance(value, list) else ()
    return next(([part, *place] for part, one in within if (place := _bad_leaf(one)) is not None), None)


def _is_torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False

"""What the URLs of all stores share."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from lookonce_cache.errors import StoreConfigError

UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}

T = TypeVar("T")


def split_url(url: str) -> SplitResult:
    """The URL's parts.

    Raises:
        StoreConfigError: it has none, or what looks like a piece of a password where none belongs.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreConfigError("store URL cannot be parsed; accepted: an address in brackets must be IPv6") from None
    # An unescaped "/", "?" or "#" ends the host part early, and what is left of the password would be quoted as a
    # parameter or connected to as a host.
    if parts.fragment or "@" in parts.path or ("@" in parts.query and "@" not in parts.netloc and parts.netloc):
        raise StoreConfigError("store URL cannot be parsed; in user and password, '/', '?', '#' are %2F, %3F, %23")
    return parts


def parameters(parts: SplitResult, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The query's parameters, each read by the reader of its name.

    Raises:
        StoreConfigError: a parameter has no reader, or its reader does not accept the value.
    """
    texts = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(texts.keys() - readers.keys())
    if unknown:
        raise StoreConfigError(f"store URL parameter: {unknown[0]!r}; accepted: {', '.join(sorted(readers))}")
    given = {}
    for name, text in texts.items():
        try:
            given[name] = readers[name](text)
        except StoreConfigError as error:
            raise StoreConfigError(f"store URL parameter {name}: {error}") from None
    return given


def parse_size(text: str) -> int:
    """Bytes in "1000000", "512MiB" or "2GiB".

    Raises:
        StoreConfigError: `text` is not a whole positive number with one of `UNITS`.
    """
    match = re.fullmatch(r"([0-9]{1,15}) ?([KMGT]iB)?", text)
    size = int(match[1]) * UNITS[match[2] or ""] if match else 0
    if size <= 0:
        raise StoreConfigError(f"size: {text!r}; accepted: a whole number of bytes, or of KiB, MiB, GiB or TiB")
    return size


def one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    """A reader that accepts the names of these values, in any case."""

    def read(text: str) -> T:
        if text.lower() not in values:
            raise StoreConfigError(f"{text!r}; accepted: {', '.join(values)}")
        return values[text.lower()]

    return read


def number(kind: Callable[[str], T], accepted: str, pattern: str) -> Callable[[str], T]:
    """A reader that accepts texts of a pattern. If `accepted`, its description, ends with "above 0", 0 is refused."""

    def read(text: str) -> T:
        if not re.fullmatch(pattern, text) or (accepted.endswith("above 0") and not float(text)):
            raise StoreConfigError(f"{text!r}; accepted: {accepted}")
        return kind(text)

    return read

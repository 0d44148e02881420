"""Parse store URLs and their parameters."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from lookonce_cache.errors import StoreConfigError

UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}

T = TypeVar("T")


def split_url(url: str) -> SplitResult:
    """Split a URL into its parts.

    Raises:
        StoreConfigError: the URL is malformed, or seems to have a piece of a password in another part.
    """
    try:
        parts = urlsplit(url.replace("[", "%5B").replace("]", "%5D"))
    except ValueError:  # without its text, which has a piece of the URL
        raise StoreConfigError(
            "store URL cannot be parsed; accepted in its address: letters, digits, '.', '-', ':', '[' and ']'"
        ) from None
    # Newer Pythons take brackets around a single address alone, and a Cluster has several.
    parts = parts._replace(netloc=parts.netloc.replace("%5B", "[").replace("%5D", "]"))
    # An unescaped "/", "?" or "#" ends the host part early, and the rest of the password would be quoted as a parameter
    # or connected to as a host.
    if parts.fragment or "@" in parts.path or ("@" in parts.query and "@" not in parts.netloc and parts.netloc):
        raise StoreConfigError("store URL cannot be parsed; in user and password, '/', '?', '#' are %2F, %3F, %23")
    return parts


def parameters(parts: SplitResult, parsers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Parse the query's parameters, each with the parser of its name.

    Raises:
        StoreConfigError: a parameter has no parser, or its parser does not accept the value.
    """
    texts = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(texts.keys() - parsers.keys())
    if unknown:
        raise StoreConfigError(f"store URL parameter: {unknown[0]!r}; accepted: {', '.join(sorted(parsers))}")
    values = {}
    for name, text in texts.items():
        try:
            values[name] = parsers[name](text)
        except StoreConfigError as error:
            raise StoreConfigError(f"store URL parameter {name}: {error}") from None
    return values


def parse_size(text: str) -> int:
    """Parse a number of bytes, such as "1000000", "512MiB" or "2GiB".

    Raises:
        StoreConfigError: `text` is not a whole positive number with one of `UNITS`.
    """
    match = re.fullmatch(r"([0-9]{1,15}) ?([KMGT]iB)?", text)
    size = int(match[1]) * UNITS[match[2] or ""] if match else 0
    if size <= 0:
        raise StoreConfigError(f"size: {text!r}; accepted: a whole number of bytes, or of KiB, MiB, GiB or TiB")
    return size


def one_of(values: Mapping[str, T]) -> Callable[[str], T]:
    """Return a parser that accepts the names of these values, in any case."""

    def parse(text: str) -> T:
        if text.lower() not in values:
            raise StoreConfigError(f"{text!r}; accepted: {', '.join(values)}")
        return values[text.lower()]

    return parse


def number(kind: Callable[[str], T], accepted: str, pattern: str) -> Callable[[str], T]:
    """Return a parser of numbers that match a pattern.

    Args:
        kind: the type of the number.
        accepted: the description of accepted values; if it ends with "above 0", 0 is refused.
        pattern: the regular expression of accepted texts.
    """

    def parse(text: str) -> T:
        if not re.fullmatch(pattern, text) or (accepted.endswith("above 0") and not float(text)):
            raise StoreConfigError(f"{text!r}; accepted: {accepted}")
        return kind(text)

    return parse

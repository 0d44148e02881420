"""The hosts that images are fetched from: the operator's list."""

import ipaddress
import re
from dataclasses import dataclass

import httpx2

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
# Spellings that resolvers take for an IPv4 address: 2130706433, 0x7f.1, 127.1.
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)")
_ENTRY = re.compile(r"(?P<any>\*\.)?(?P<host>\[[^\]]*\]|[^:/@\[\]]+)(:(?P<port>[0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """An entry of the operator's list: a host, or all hosts below it.

    Attributes:
        host: normalised: see `normalize_host`.
        below: whether the entry is for the hosts below it.
        port: the only port; None for the scheme's default.
    """

    host: str
    below: bool
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "AllowedHost":
        """Parse an entry such as '*.example.com', 'example.com:8443' or '10.1.2.3'.

        Raises:
            ValueError: it has another form.
        """
        entry = _ENTRY.fullmatch(text)
        host = normalize_host(entry["host"]) if entry else None
        port = int(entry["port"]) if entry and entry["port"] else None
        below = bool(entry and entry["any"])
        if host is None or port == 0 or (port or 0) > 65535 or (below and _is_address(host)):
            raise ValueError(
                f"{text!r} is no host; expected such as 'example.com', '*.example.com' for all hosts below it,"
                " or 'example.com:8443'"
            )
        return cls(host, below, port)

    def matches(self, scheme: str, host: str, port: int) -> bool:
        """Return whether the entry allows this scheme, normalised host and port."""
        if port != (self.port or DEFAULT_PORTS[scheme]):
            return False
        return host.endswith(f".{self.host}") if self.below else host == self.host


def normalize_host(text: str) -> str | None:
    """Normalise a host: lower case, IDNA, no final dot, canonical addresses.

    Returns:
        None if it is no host, or an address in a spelling that resolvers understand though it is not canonical.
    """
    try:
        host = httpx2.URL(scheme="https", host=text, path="/").raw_host.decode("ascii").lower()
    except httpx2.InvalidURL:
        return None
    host = host.removesuffix(".")
    if _is_address(host):
        return None if "%" in host else ipaddress.ip_address(host).compressed
    if not _NAME.fullmatch(host) or len(host) > 253 or _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

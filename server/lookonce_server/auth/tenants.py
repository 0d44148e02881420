"""API keys, and the tenant that each stands for.

Keys are kept as their SHA-256 only. That is enough, and quick: they are drawn at random here, 256 bits each, not chosen
by people, so there is nothing to guess. This module is light, as `lookonce new-key` must be: no torch.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping

from lookonce_cache import DEFAULT_TENANT
from lookonce_server.errors import InvalidKeyError

_PREFIX = "lo-"
_SECRET = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}|[0-9a-fA-F]{{64}}")  # what looks like a key, or like a hash
_BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)


class TenantDirectory:
    """Look tenants up by their API keys.

    Args:
        tenants: tenants by the SHA-256 of a key, hex. If empty, no key is needed and all are `DEFAULT_TENANT`.
    """

    def __init__(self, tenants: Mapping[str, str]) -> None:
        self._tenants = dict(tenants)

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self._tenants)

    def tenant(self, authorization: str | None) -> str:
        """Return the tenant that sends a request.

        Args:
            authorization: the request's header of that name.

        Raises:
            InvalidKeyError: there are keys, and this is none of them.
        """
        if not self.asks_for_keys:
            return DEFAULT_TENANT
        match = _BEARER.fullmatch(authorization or "")
        if match is None:
            raise InvalidKeyError("This server wants an API key: send the header 'Authorization: Bearer <key>'.")
        sent, result = key_hash(match[1]), None
        for known, tenant in self._tenants.items():  # all of them, so that the time reveals nothing
            if hmac.compare_digest(known, sent):
                result = tenant
        if result is None:
            raise InvalidKeyError("The API key is not one of this server's.")
        return result


def new_key() -> str:
    """Draw a new API key."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """Return the SHA-256 of a key, 64 hex digits."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def mask_keys(text: str) -> str:
    """Hide all that looks like a key or a hash, for error messages."""
    return _SECRET.sub("***", text)


def is_loopback(host: str) -> bool:
    """Return whether a host, without port, is reached from this machine alone."""
    name = host.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

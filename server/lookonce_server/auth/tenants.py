"""Who asks: API keys, and the tenant that each stands for.

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
    """Tells tenants by their API keys.

    Args:
        tenants: tenant by the SHA-256 of a key, hex; empty: no key is asked for, and all are `DEFAULT_TENANT`.
    """

    def __init__(self, tenants: Mapping[str, str]) -> None:
        self._tenants = dict(tenants)

    @property
    def asks_for_keys(self) -> bool:
        """Whether there are any keys."""
        return bool(self._tenants)

    def tenant(self, authorization: str | None) -> str:
        """Whose request it is.

        Args:
            authorization: the request's header of that name.

        Raises:
            InvalidKeyError: keys are asked for, and this is none of them.
        """
        if not self.asks_for_keys:
            return DEFAULT_TENANT
        match = _BEARER.fullmatch(authorization or "")
        if match is None:
            raise InvalidKeyError("This server wants an API key: send the header 'Authorization: Bearer <key>'.")
        given = key_hash(match[1])
        found = None
        for known, tenant in self._tenants.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, given):
                found = tenant
        if found is None:
            raise InvalidKeyError("The API key is not one of this server's.")
        return found


def new_key() -> str:
    """A fresh API key."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_hash(key: str) -> str:
    """SHA-256 of a key, 64 hex digits."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def masked(text: str) -> str:
    """A text without what looks like a key or a hash: for messages about settings that were mixed up."""
    return _SECRET.sub("***", text)


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address without port, is this machine as only itself can reach it."""
    name = host.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

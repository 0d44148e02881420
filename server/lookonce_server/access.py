"""Who asks: API keys, and the tenant that each stands for.

Keys are kept as their SHA-256 only. That is enough, and quick: they are drawn at random here, 256 bits each, not chosen
by people, so there is nothing to guess.
"""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path

from lookonce_cache import DEFAULT_TENANT, InvalidContextError, check_tenant
from lookonce_server.errors import AccessConfigError, InvalidKeyError

_PREFIX = "lo-"
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_SECRET = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}|[0-9a-fA-F]{{64}}")  # what looks like a key, or like a hash
_BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)


class Access:
    """Tells tenants by their API keys.

    Args:
        tenants: tenant by the SHA-256 of a key, hex; empty: no key is asked for, and all are `DEFAULT_TENANT`.
    """

    def __init__(self, tenants: Mapping[str, str]) -> None:
        self._tenants = dict(tenants)

    @classmethod
    def read(cls, path: Path | None) -> "Access":
        """Read a TOML file with a table `tenants`: a list of "sha256:..." for each.

        Raises:
            AccessConfigError: it cannot be read, or says something else; no message contains a key or a hash.
        """
        if path is None:
            return cls({})
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _wrong(path, str(error)) from None
        tenants = content.get("tenants")
        if content.keys() != {"tenants"} or not isinstance(tenants, dict) or not tenants:
            raise _wrong(path, "expected one table, [tenants], with a list of hashes a tenant")
        found: dict[str, str] = {}
        for tenant, hashes in tenants.items():
            for value in _hashes(path, tenant, hashes):
                if found.setdefault(value, tenant) != tenant:
                    raise _wrong(path, f"tenants {found[value]} and {tenant} have a key in common")
        return cls(found)

    @property
    def wants_keys(self) -> bool:
        """Whether there are any keys; without, anybody may ask."""
        return bool(self._tenants)

    def tenant(self, authorization: str | None) -> str:
        """Whose request it is.

        Args:
            authorization: the request's header of that name.

        Raises:
            InvalidKeyError: keys are asked for, and this is none of them.
        """
        if not self.wants_keys:
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


def _hashes(path: Path, tenant: str, hashes: object) -> list[str]:
    try:
        check_tenant(tenant)
    except InvalidContextError as error:
        raise _wrong(path, str(error)) from None
    matches = [_HASH.fullmatch(value) if isinstance(value, str) else None for value in _listed(hashes)]
    if not matches or None in matches:
        expected = "a list of 'sha256:' with 64 hex digits each, as `lookonce new-key` prints them"
        raise _wrong(path, f"tenant {tenant}: expected {expected}")
    return [match[1] for match in matches if match]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _wrong(path: Path, what: str) -> AccessConfigError:
    """The error; a key or a hash in it, from a table the wrong way round perhaps, is masked."""
    return AccessConfigError(f"--api-keys {path}: {_SECRET.sub('***', what)}")

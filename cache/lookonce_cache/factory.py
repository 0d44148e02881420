"""From a store URL to a store."""

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

from lookonce_cache.errors import StoreConfigError
from lookonce_cache.memory import DEFAULT_MAX_BYTES, MemoryStore
from lookonce_cache.redis_store import RedisStore
from lookonce_cache.store import OnDamaged, Store, ignore_damage

UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}

SCHEMES = "memory://, redis://, rediss://, unix://"
MEMORY_PARAMETERS = {"max_bytes"}
REDIS_PARAMETERS = {
    "db",
    "username",
    "password",
    "client_name",
    "max_connections",
    "timeout",
    "socket_timeout",
    "socket_connect_timeout",
    "health_check_interval",
}
TLS_PARAMETERS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}


def open_store(url: str, *, ttl: float | None = None, on_damaged: OnDamaged = ignore_damage) -> Store:
    """The store that `url` names. Nothing is connected yet; `Store.ping` does.

    Args:
        url: "memory://?max_bytes=2GiB", or "redis://...", "rediss://...", "unix://..." as redis-py reads them.
        ttl: seconds a context lives after its last use, None for as long as there is room.
        on_damaged: called with `ContextFormatError.reason` for every damaged value met.

    Raises:
        StoreConfigError: the scheme, a parameter or the TTL is wrong. No message contains a password.
    """
    if ttl is not None and not 0 < ttl < float("inf"):
        raise StoreConfigError(f"store ttl: {ttl!r}; accepted: seconds above 0, or None for ever")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreConfigError("store URL cannot be parsed; accepted: an address in brackets must be IPv6") from None
    match parts.scheme:
        case "memory":
            return _open_memory(parts, ttl)
        case "redis" | "unix":
            return _open_redis(parts, ttl, on_damaged, REDIS_PARAMETERS)
        case "rediss":
            return _open_redis(parts, ttl, on_damaged, REDIS_PARAMETERS | TLS_PARAMETERS)
        case scheme:
            raise StoreConfigError(f"store URL scheme: {scheme!r}; accepted: {SCHEMES}")


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


def _open_memory(parts: SplitResult, ttl: float | None) -> MemoryStore:
    if parts.netloc or parts.path:
        raise StoreConfigError(f"store URL memory://: {parts.netloc + parts.path!r}; accepted: parameters only")
    parameters = _parameters(parts, MEMORY_PARAMETERS)
    if "max_bytes" not in parameters:
        return MemoryStore(ttl=ttl, max_bytes=DEFAULT_MAX_BYTES)
    try:
        return MemoryStore(ttl=ttl, max_bytes=parse_size(parameters["max_bytes"]))
    except StoreConfigError as error:
        raise StoreConfigError(f"store URL parameter max_bytes: {error}") from None


def _open_redis(parts: SplitResult, ttl: float | None, on_damaged: OnDamaged, accepted: set[str]) -> RedisStore:
    _parameters(parts, accepted)
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
        # Not quoted: what follows an unescaped "/" in a password lands here.
        raise StoreConfigError("store URL database; accepted: a number, as in redis://host/0, and %2F in a password")
    return RedisStore(parts.geturl(), ttl=ttl, on_damaged=on_damaged)


def _parameters(parts: SplitResult, accepted: set[str]) -> dict[str, str]:
    """The query's parameters. Values are not quoted in errors: one may be a password."""
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(parameters.keys() - accepted)
    if unknown:
        raise StoreConfigError(f"store URL parameter: {unknown[0]!r}; accepted: {', '.join(sorted(accepted))}")
    return parameters

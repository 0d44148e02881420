"""Open the store that a URL names."""

from collections.abc import Callable
from typing import Any

from lookonce_cache.errors import StoreConfigError
from lookonce_cache.stores.base import Store
from lookonce_cache.stores.blobs import MEMORY_BYTES
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.options import SCHEMES as REDIS_SCHEMES
from lookonce_cache.stores.redis.options import parse_redis_url
from lookonce_cache.stores.urls import parameters, parse_size, split_url

SCHEMES = ", ".join(f"{scheme}://" for scheme in ("memory", *REDIS_SCHEMES))
MEMORY_PARAMETERS: dict[str, Callable[[str], int]] = {"max_bytes": parse_size}


def open_store(
    url: str,
    *,
    ttl: float | None = None,
    observer: StoreObserver | None = None,
    record_bytes: int = MEMORY_BYTES,
    image_bytes: int = MEMORY_BYTES,
) -> Store:
    """Open the store of a URL, without connecting; `Store.ping` connects.

    - `memory://?max_bytes=2GiB`
    - `redis://[[user]:password@]host[:port][/db]`, and `rediss://` over TLS
    - `unix://[[user]:password@]/path/to/socket`
    - `redis+cluster://[[user]:password@]host[:port][,host[:port]...]`, some nodes of a cluster, and `rediss+cluster://`

    The parameters of all but the first are the fields of `RedisOptions` from `client_name` on, `db`, `username` and
    `password`; with TLS also redis-py's `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` and
    `ssl_check_hostname`. `hot_bytes=256MiB` adds a memory tier of that size in front of Redis.

    Args:
        url: the URL, with special characters in user and password percent-encoded.
        ttl: seconds for which a context is kept after its last use; None for as long as there is space.
        observer: receives every call.
        record_bytes: budget for records in a memory store; the bound of Redis is its `maxmemory`.
        image_bytes: budget for images in a memory store, likewise.

    Raises:
        StoreConfigError: a part of the URL or the TTL is wrong. No message contains a password.
    """
    if ttl is not None and not 0 < ttl < float("inf"):
        raise StoreConfigError(f"store ttl: {ttl!r}; accepted: seconds above 0, or None for ever")
    check_store_url(url)
    # Imported here, and not above: they need torch and redis, and checking a URL does not.
    from lookonce_cache.stores.memory import MemoryStore

    if (parts := split_url(url)).scheme == "memory":
        budgets: dict[str, Any] = {"record_bytes": record_bytes, "image_bytes": image_bytes}
        return MemoryStore(**parameters(parts, MEMORY_PARAMETERS), **budgets, ttl=ttl, observer=observer)

    from lookonce_cache.stores.redis.store import RedisStore
    from lookonce_cache.stores.tiered import TieredStore

    shared = RedisStore(url, ttl=ttl, observer=observer)
    hot_bytes = parse_redis_url(url).hot_bytes
    if hot_bytes is None:
        return shared
    return TieredStore(MemoryStore(max_bytes=hot_bytes, ttl=ttl, observer=observer), shared)


def check_store_url(url: str) -> None:
    """Raise StoreConfigError unless `open_store` accepts a URL; cheap, as nothing is opened."""
    parts = split_url(url)
    if parts.scheme in REDIS_SCHEMES:
        parse_redis_url(url)
    elif parts.scheme != "memory":
        raise StoreConfigError(f"store URL scheme: {parts.scheme!r}; accepted: {SCHEMES}")
    elif parts.netloc or parts.path:
        raise StoreConfigError(f"store URL memory://: {parts.netloc + parts.path!r}; accepted: parameters only")
    else:
        parameters(parts, MEMORY_PARAMETERS)

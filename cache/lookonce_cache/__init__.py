"""How a compressed context is kept: the context, its wire format, its keys and the stores.

What needs torch is imported when it is first asked for: the names of precisions and the errors are there at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lookonce_cache.errors import (
    BlobTooLargeError,
    CacheError,
    ContextFormatError,
    ContextTooLargeError,
    InvalidContextError,
    LeaseLostError,
    StoreConfigError,
    StoreUnavailableError,
    WritesRefusedError,
)
from lookonce_cache.identity import (
    DEFAULT_TENANT,
    FORMAT_VERSION,
    PRECISIONS,
    ContextIdentity,
    ContextKey,
    check_tenant,
    digest,
)
from lookonce_cache.stores.urls import parse_size

if TYPE_CHECKING:
    from lookonce_cache.context import CompressedContext
    from lookonce_cache.format.quantization import QuantizedTensor, stored
    from lookonce_cache.format.wire import decode, encode
    from lookonce_cache.stores.base import ContextInfo, Lease, Page, State, Store, StoreHit, StoreStats
    from lookonce_cache.stores.blobs import MAX_BLOB_BYTES, BlobKey, BlobStore
    from lookonce_cache.stores.memory import MemoryStore
    from lookonce_cache.stores.observer import Outcome, StoreObserver
    from lookonce_cache.stores.open import open_store
    from lookonce_cache.stores.redis.store import RedisStore

__all__ = [
    "DEFAULT_TENANT",
    "FORMAT_VERSION",
    "MAX_BLOB_BYTES",
    "PRECISIONS",
    "BlobKey",
    "BlobStore",
    "BlobTooLargeError",
    "CacheError",
    "CompressedContext",
    "ContextFormatError",
    "ContextIdentity",
    "ContextInfo",
    "ContextKey",
    "ContextTooLargeError",
    "InvalidContextError",
    "Lease",
    "LeaseLostError",
    "MemoryStore",
    "Outcome",
    "Page",
    "QuantizedTensor",
    "RedisStore",
    "State",
    "Store",
    "StoreConfigError",
    "StoreHit",
    "StoreObserver",
    "StoreStats",
    "StoreUnavailableError",
    "WritesRefusedError",
    "check_tenant",
    "decode",
    "digest",
    "encode",
    "open_store",
    "parse_size",
    "stored",
]

_NEED_TORCH = {
    "MAX_BLOB_BYTES": "stores.blobs",
    "BlobKey": "stores.blobs",
    "BlobStore": "stores.blobs",
    "CompressedContext": "context",
    "ContextInfo": "stores.base",
    "Lease": "stores.base",
    "MemoryStore": "stores.memory",
    "Outcome": "stores.observer",
    "Page": "stores.base",
    "QuantizedTensor": "format.quantization",
    "RedisStore": "stores.redis.store",
    "State": "stores.base",
    "Store": "stores.base",
    "StoreHit": "stores.base",
    "StoreObserver": "stores.observer",
    "StoreStats": "stores.base",
    "decode": "format.wire",
    "encode": "format.wire",
    "open_store": "stores.open",
    "stored": "format.quantization",
}

if not TYPE_CHECKING:  # else every wrong name would pass for one of these

    def __getattr__(name: str) -> object:
        if name not in _NEED_TORCH:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)

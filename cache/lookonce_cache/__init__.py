"""Store compressed contexts: their identity, wire format and stores.

Names that need torch or redis are imported on first use, so that settings, keys and errors are cheap to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from lookonce_cache.stores.base import ContextInfo, Lease, NodeUsage, Page, State, Store, StoreHit, StoreStats
from lookonce_cache.stores.blobs import MAX_BLOB_BYTES, BlobKey, BlobStore
from lookonce_cache.stores.observer import Eviction, Outcome, StoreObserver
from lookonce_cache.stores.open import check_store_url, open_store
from lookonce_cache.stores.urls import parse_size

if TYPE_CHECKING:
    from lookonce_cache.context import CompressedContext
    from lookonce_cache.format.quantization import QuantizedTensor, quantize
    from lookonce_cache.format.wire import decode, encode
    from lookonce_cache.stores.memory import MemoryStore
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
    "Eviction",
    "InvalidContextError",
    "Lease",
    "LeaseLostError",
    "MemoryStore",
    "NodeUsage",
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
    "check_store_url",
    "check_tenant",
    "decode",
    "digest",
    "encode",
    "open_store",
    "parse_size",
    "quantize",
]

_LAZY = {
    "CompressedContext": "context",
    "QuantizedTensor": "format.quantization",
    "quantize": "format.quantization",
    "decode": "format.wire",
    "encode": "format.wire",
    "MemoryStore": "stores.memory",
    "RedisStore": "stores.redis.store",
}


def __getattr__(name: str) -> Any:
    """Import a lazy name from its module."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)

"""How a compressed context is kept: the context, its wire format, its keys and the stores."""

from lookonce_cache.context import CompressedContext
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
from lookonce_cache.format.quantization import PRECISIONS, QuantizedTensor, stored
from lookonce_cache.format.wire import decode, encode
from lookonce_cache.identity import DEFAULT_TENANT, FORMAT_VERSION, ContextIdentity, ContextKey, check_tenant, digest
from lookonce_cache.stores.base import ContextInfo, Lease, Page, State, Store, StoreHit, StoreStats
from lookonce_cache.stores.blobs import MAX_BLOB_BYTES, BlobKey, BlobStore
from lookonce_cache.stores.memory import MemoryStore
from lookonce_cache.stores.observer import Outcome, StoreObserver
from lookonce_cache.stores.open import open_store
from lookonce_cache.stores.redis.store import RedisStore
from lookonce_cache.stores.urls import parse_size

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

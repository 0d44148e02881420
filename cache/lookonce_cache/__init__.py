"""How a compressed context is kept: the context, its wire format, its keys and the stores."""

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import (
    CacheError,
    ContextFormatError,
    ContextTooLargeError,
    InvalidContextError,
    LeaseLostError,
    RecordTooLargeError,
    StoreConfigError,
    StoreUnavailableError,
    WritesRefusedError,
)
from lookonce_cache.factory import open_store
from lookonce_cache.keys import DEFAULT_TENANT, FORMAT_VERSION, ContextIdentity, ContextKey, check_tenant, digest
from lookonce_cache.memory import MemoryStore
from lookonce_cache.observer import Observer, Outcome
from lookonce_cache.precision import PRECISIONS, StoredTensor, stored
from lookonce_cache.records import MAX_RECORD_BYTES, RecordKey, Records
from lookonce_cache.redis_store import RedisStore
from lookonce_cache.store import ContextInfo, Found, Lease, Page, State, Store, StoreStats
from lookonce_cache.urls import parse_size
from lookonce_cache.wire import decode, encode

__all__ = [
    "DEFAULT_TENANT",
    "FORMAT_VERSION",
    "MAX_RECORD_BYTES",
    "PRECISIONS",
    "CacheError",
    "CompressedContext",
    "ContextFormatError",
    "ContextIdentity",
    "ContextInfo",
    "ContextKey",
    "ContextTooLargeError",
    "Found",
    "InvalidContextError",
    "Lease",
    "LeaseLostError",
    "MemoryStore",
    "Observer",
    "Outcome",
    "Page",
    "RecordKey",
    "RecordTooLargeError",
    "Records",
    "RedisStore",
    "State",
    "Store",
    "StoreConfigError",
    "StoreStats",
    "StoreUnavailableError",
    "StoredTensor",
    "WritesRefusedError",
    "check_tenant",
    "decode",
    "digest",
    "encode",
    "open_store",
    "parse_size",
    "stored",
]

"""How a compressed context is kept: the context, its wire format, its keys and the stores."""

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import (
    CacheError,
    ContextFormatError,
    ContextTooLargeError,
    InvalidContextError,
    StoreConfigError,
    StoreUnavailableError,
)
from lookonce_cache.factory import open_store, parse_size
from lookonce_cache.header import FORMAT_VERSION
from lookonce_cache.keys import ContextIdentity, digest
from lookonce_cache.memory import MemoryStore
from lookonce_cache.redis_store import RedisStore
from lookonce_cache.store import ContextInfo, OnDamaged, Store
from lookonce_cache.wire import decode, encode

__all__ = [
    "FORMAT_VERSION",
    "CacheError",
    "CompressedContext",
    "ContextFormatError",
    "ContextIdentity",
    "ContextInfo",
    "ContextTooLargeError",
    "InvalidContextError",
    "MemoryStore",
    "OnDamaged",
    "RedisStore",
    "Store",
    "StoreConfigError",
    "StoreUnavailableError",
    "decode",
    "digest",
    "encode",
    "open_store",
    "parse_size",
]

"""Records: values that servers keep beside the contexts, as what was said about an image, or the image itself."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lookonce_cache.errors import BlobTooLargeError
from lookonce_cache.format.header import DIGEST_BYTES, checksum
from lookonce_cache.identity import check_tenant, is_digest, require
from lookonce_cache.stores.observer import StoreObserver, observed

MAX_BLOB_BYTES = 20 * 1024**2
MEMORY_BYTES = 64 * 1024**2  # of all records in a process's memory
_PREFIX = b"lookonce record 1\n"
_OVERHEAD = 512  # what a record costs in memory beside its value, roughly


@dataclass(frozen=True, slots=True, order=True)
class BlobKey:
    """Where a record is found: whose it is, and its id. A tenant's records do not exist for another one.

    Attributes:
        tenant: see `check_tenant`.
        id: 64 lowercase hex digits, which nobody can guess: nothing else guards a record from its own tenant.

    Raises:
        InvalidContextError: one of them is not of that form; nothing can be stored under such a key.
    """

    tenant: str
    id: str

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        require(is_digest(self.id), "id must be 64 lowercase hex digits", self.id)


class BlobStore(Protocol):
    """Keeps records for `ttl` seconds after they were last written or read, or shorter when room is needed.

    Each may give another `ttl` for itself, in seconds; the next one decides anew. A record is opaque bytes, at most
    `MAX_BLOB_BYTES`. A value that is damaged, or was not written under this key, is no record: it is reported to the
    observer.

    Every method may raise StoreUnavailableError.
    """

    async def read(self, key: BlobKey, *, ttl: float | None = None) -> bytes | None:
        """The record, or None. Renews it."""

    async def write(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a record, in place of one with the same key.

        Raises:
            BlobTooLargeError: it is larger than any record may be.
        """

    async def forget(self, key: BlobKey) -> bool:
        """Forget a record; whether there was one."""


def seal(key: BlobKey, value: bytes) -> bytes:
    """A record as it is stored: with a checksum over itself and its key.

    Raises:
        BlobTooLargeError: it is larger than any record may be.
    """
    if len(value) > MAX_BLOB_BYTES:
        raise BlobTooLargeError(f"a record of {len(value)} bytes exceeds the limit of {MAX_BLOB_BYTES}")
    return b"".join((_PREFIX, value, _checksum(key, value)))


def unseal(key: BlobKey, stored: bytes) -> bytes | None:
    """The record that `seal` made this value of, under this key; None for any other bytes."""
    value, found = stored[len(_PREFIX) : -DIGEST_BYTES], stored[-DIGEST_BYTES:]
    is_whole = len(stored) >= len(_PREFIX) + DIGEST_BYTES and stored.startswith(_PREFIX)
    return value if is_whole and found == _checksum(key, value) else None


def _checksum(key: BlobKey, value: bytes) -> bytes:
    return checksum(_PREFIX, f"{key.tenant}:{key.id}:".encode(), value)


class _Entry(NamedTuple):
    value: bytes
    expires_at: float  # in time.monotonic's seconds; infinite for never

    @property
    def bytes(self) -> int:
        return len(self.value) + _OVERHEAD


class MemoryBlobStore:
    """`BlobStore` in this process's memory, at most `max_bytes`: the least recently used is dropped first.

    Args:
        ttl: seconds a record lives after its last use, None for ever.
        observer: told of every call.
        max_bytes: budget for the records of all tenants together.
    """

    tier = "memory"

    def __init__(self, *, ttl: float | None, observer: StoreObserver, max_bytes: int = MEMORY_BYTES) -> None:
        self.observer = observer
        self.used_bytes = 0
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._entries: OrderedDict[BlobKey, _Entry] = OrderedDict()  # least recently used first

    @observed
    async def read(self, key: BlobKey, *, ttl: float | None = None) -> bytes | None:
        """See `BlobStore.read`."""
        entry = self._take(key)
        if entry is None:
            return None
        self._keep(key, entry.value, self._ttl if ttl is None else ttl)
        return entry.value

    @observed
    async def write(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> None:
        """See `BlobStore.write`."""
        if len(value) > MAX_BLOB_BYTES:
            raise BlobTooLargeError(f"a record of {len(value)} bytes exceeds the limit of {MAX_BLOB_BYTES}")
        self._take(key)
        self._keep(key, value, self._ttl if ttl is None else ttl)
        while self.used_bytes > self._max_bytes:
            self._drop_first()

    @observed
    async def forget(self, key: BlobKey) -> bool:
        """See `BlobStore.forget`."""
        return self._take(key) is not None

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.used_bytes = 0

    def _keep(self, key: BlobKey, value: bytes, ttl: float | None) -> None:
        self._entries[key] = _Entry(value, math.inf if ttl is None else time.monotonic() + ttl)
        self.used_bytes += self._entries[key].bytes

    def _take(self, key: BlobKey) -> _Entry | None:
        """The record, no longer kept; None if there is none that has not expired."""
        self._drop_expired()
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.used_bytes -= entry.bytes
        return entry if time.monotonic() < entry.expires_at else None

    def _drop_expired(self) -> None:
        """Drop those at the front: with one TTL for all, that is all of them, and else nearly all."""
        now = time.monotonic()
        while self._entries and next(iter(self._entries.values())).expires_at <= now:
            self._drop_first()

    def _drop_first(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self.used_bytes -= entry.bytes

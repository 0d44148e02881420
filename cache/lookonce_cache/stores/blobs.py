"""Store blobs beside the contexts: opaque values, such as a response or an image."""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from lookonce_cache.errors import BlobTooLargeError
from lookonce_cache.format.checksum import DIGEST_BYTES, checksum
from lookonce_cache.identity import check_tenant, is_digest, require
from lookonce_cache.stores.observer import StoreObserver, observed

MAX_BLOB_BYTES = 20 * 1024**2
MEMORY_BYTES = 64 * 1024**2  # for all blobs in a process's memory
_PREFIX = b"lookonce record 1\n"
_OVERHEAD = 512  # bytes of memory that a blob takes beside its value, roughly


@dataclass(frozen=True, slots=True, order=True)
class BlobKey:
    """Name a blob by its tenant and id; other tenants cannot see it.

    Attributes:
        tenant: the tenant's name; see `check_tenant`.
        id: 64 lowercase hex digits that nobody can guess: nothing else protects a blob from its own tenant.

    Raises:
        InvalidContextError: one of them is malformed; nothing can be stored under such a key.
    """

    tenant: str
    id: str

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        require(is_digest(self.id), "id must be 64 lowercase hex digits", self.id)


class BlobStore(Protocol):
    """Keep blobs for `ttl` seconds after their last use, or until space is needed.

    Each read and write may set a `ttl` of its own, in seconds, which holds until the next one. A blob has at most
    `MAX_BLOB_BYTES`. A value that is damaged, or was written under another key, is a miss: it is reported to the
    observer.

    Every method may raise StoreUnavailableError.
    """

    async def read(self, key: BlobKey, *, ttl: float | None = None) -> bytes | None:
        """Return and renew a blob, or return None."""

    async def write(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> None:
        """Store a blob, in place of one with the same key.

        Raises:
            BlobTooLargeError: the blob is larger than `MAX_BLOB_BYTES`.
        """

    async def add(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> bool:
        """Store a blob unless there is one with the same key; returns whether it was stored. See `write`."""

    async def forget(self, key: BlobKey) -> bool:
        """Delete a blob; returns whether there was one."""


def seal(key: BlobKey, value: bytes) -> bytes:
    """Encode a blob with a checksum over itself and its key.

    Raises:
        BlobTooLargeError: the blob is larger than `MAX_BLOB_BYTES`.
    """
    if len(value) > MAX_BLOB_BYTES:
        raise BlobTooLargeError(f"a blob of {len(value)} bytes exceeds the limit of {MAX_BLOB_BYTES}")
    return b"".join((_PREFIX, value, _checksum(key, value)))


def unseal(key: BlobKey, stored: bytes) -> bytes | None:
    """Decode a value that `seal` made under this key; None for any other bytes."""
    value, trailer = stored[len(_PREFIX) : -DIGEST_BYTES], stored[-DIGEST_BYTES:]
    is_whole = len(stored) >= len(_PREFIX) + DIGEST_BYTES and stored.startswith(_PREFIX)
    return value if is_whole and trailer == _checksum(key, value) else None


def _checksum(key: BlobKey, value: bytes) -> bytes:
    return checksum(_PREFIX, f"{key.tenant}:{key.id}:".encode(), value)


class _Entry(NamedTuple):
    value: bytes
    expires_at: float  # in time.monotonic's seconds; infinite for never

    @property
    def bytes(self) -> int:
        return len(self.value) + _OVERHEAD


class MemoryBlobStore:
    """Keep blobs in this process's memory, and drop the least recently used first.

    Args:
        ttl: seconds for which a blob is kept after its last use; None for ever.
        observer: receives every call.
        max_bytes: budget for the blobs of all tenants together.
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
        """Read as `BlobStore.read` says."""
        entry = self._pop(key)
        if entry is None:
            return None
        self._add(key, entry.value, self._ttl if ttl is None else ttl)
        return entry.value

    @observed
    async def write(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> None:
        """Write as `BlobStore.write` says."""
        self._put(key, value, ttl)

    @observed
    async def add(self, key: BlobKey, value: bytes, *, ttl: float | None = None) -> bool:
        """Add as `BlobStore.add` says."""
        entry = self._entries.get(key)
        if entry is not None and time.monotonic() < entry.expires_at:
            return False
        self._put(key, value, ttl)
        return True

    @observed
    async def forget(self, key: BlobKey) -> bool:
        """Delete as `BlobStore.forget` says."""
        return self._pop(key) is not None

    def clear(self) -> None:
        """Delete all blobs."""
        self._entries.clear()
        self.used_bytes = 0

    def _put(self, key: BlobKey, value: bytes, ttl: float | None) -> None:
        if len(value) > MAX_BLOB_BYTES:
            raise BlobTooLargeError(f"a blob of {len(value)} bytes exceeds the limit of {MAX_BLOB_BYTES}")
        self._pop(key)
        self._add(key, value, self._ttl if ttl is None else ttl)
        while self.used_bytes > self._max_bytes:
            self._drop_oldest()

    def _add(self, key: BlobKey, value: bytes, ttl: float | None) -> None:
        self._entries[key] = _Entry(value, math.inf if ttl is None else time.monotonic() + ttl)
        self.used_bytes += self._entries[key].bytes

    def _pop(self, key: BlobKey) -> _Entry | None:
        """Remove and return a blob; None if there is none, or it has expired."""
        self._drop_expired()
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.used_bytes -= entry.bytes
        return entry if time.monotonic() < entry.expires_at else None

    def _drop_expired(self) -> None:
        """Drop expired blobs at the front: all of them if their TTLs are the same."""
        now = time.monotonic()
        while self._entries and next(iter(self._entries.values())).expires_at <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self.used_bytes -= entry.bytes

"""Contexts in this process's memory: the embedded default, and the hot tier before a shared store."""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextTooLargeError, LeaseLostError
from lookonce_cache.format.quantization import QuantizedTensor
from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.base import MAX_LISTED, ContextInfo, Lease, Page, State, StoreHit, StoreStats
from lookonce_cache.stores.blobs import MEMORY_BYTES, MemoryBlobStore
from lookonce_cache.stores.cursor import Cursor, parse_cursor
from lookonce_cache.stores.observer import StoreObserver, observed

DEFAULT_MAX_BYTES = 2 * 1024**3
REMEMBERED_SECONDS = 3600.0  # that a lease is good for after it has expired, as long as nobody takes the next one


@dataclass(frozen=True, slots=True)
class _Entry:
    context: CompressedContext
    kept_at: float  # unix time in seconds
    expires_at: float  # in time.monotonic's seconds; infinite for never

    @property
    def cursor(self) -> Cursor:
        """Its place in lists, which use does not change."""
        return Cursor(self.kept_at, self.context.id)


@dataclass(frozen=True, slots=True)
class _Leased:
    token: str
    expires_at: float  # in time.monotonic's seconds


class MemoryStore:
    """A `Store` that holds at most `max_bytes` of tensors and drops the least recently used context first.

    No method waits, so none is interrupted: within one event loop every call is atomic.

    Args:
        max_bytes: budget for the tensors of all tenants together, in bytes.
        ttl: seconds a context lives after its last use, None for ever.
        observer: told of every call.
        record_bytes: budget for the records of all tenants together, in bytes.
        image_bytes: the same for images.
    """

    tier = "memory"

    def __init__(
        self,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        ttl: float | None = None,
        observer: StoreObserver | None = None,
        record_bytes: int = MEMORY_BYTES,
        image_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.observer = observer or StoreObserver()
        self.records = MemoryBlobStore(ttl=ttl, observer=self.observer, max_bytes=record_bytes)
        self.images = MemoryBlobStore(ttl=ttl, observer=self.observer, max_bytes=image_bytes)
        self._ttl = ttl
        # Least recently used first.
        self._entries: OrderedDict[ContextKey, _Entry] = OrderedDict()
        self._leases: dict[ContextKey, _Leased] = {}
        self._last_leases: dict[ContextKey, _Leased] = {}  # those that were taken last, also if they have expired
        # Nothing expires before it: until then no call has to look at every entry.
        self._earliest_expiry = math.inf
        self.observer.holds(self.tier, 0)

    @observed
    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """See `Store.get`."""
        entry = self._use(key, ttl)
        if entry is None:
            return None
        self.observer.transferred(self.tier, "read", entry.context.nbytes)
        return StoreHit(entry.context, self.tier)

    @observed
    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """See `Store.peek`."""
        self._drop_expired()
        entry = self._entries.get(key)
        return None if entry is None else entry.context

    @observed
    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """See `Store.put`.

        Raises:
            ContextTooLargeError: the context alone exceeds the budget; what is stored stays as it is.
        """
        self._drop_expired()
        if lease is not None and not (self._holds(lease) or self._has_merely_expired(lease)):
            raise LeaseLostError(f"the lease on context {context.id} does not hold any more")
        if context.nbytes > self.max_bytes:
            raise ContextTooLargeError(f"a context of {context.nbytes} bytes exceeds max_bytes={self.max_bytes}")
        if lease is not None:
            self._end(lease.key)
        self._drop(context.key)
        while self.used_bytes + context.nbytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        self._entries[context.key] = _Entry(_owning_its_memory(context), time.time(), self._expiry(ttl))
        self._hold(context.nbytes)
        self.observer.transferred(self.tier, "written", context.nbytes)

    @observed
    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """See `Store.touch`."""
        return self._use(key, ttl) is not None

    @observed
    async def delete(self, key: ContextKey) -> bool:
        """See `Store.delete`."""
        self._drop_expired()
        self._end(key)
        return self._drop(key)

    @observed
    async def info(self, key: ContextKey) -> ContextInfo | None:
        """See `Store.info`."""
        self._drop_expired()
        entry = self._entries.get(key)
        return None if entry is None else self._describe(entry)

    @observed
    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """See `Store.list`. Those put last come first."""
        cursor = parse_cursor(after)
        entries = [entry for entry in self._of_tenant(tenant) if cursor is None or entry.cursor < cursor]
        entries = [entry for entry in entries if model in (None, entry.context.identity.model_fingerprint)]
        entries.sort(key=lambda entry: entry.cursor, reverse=True)
        shown = entries[: max(0, min(limit, MAX_LISTED))]
        more = str(shown[-1].cursor) if shown and len(shown) < len(entries) else None
        return Page(tuple(map(self._describe, shown)), more)

    @observed
    async def stats(self, tenant: str) -> StoreStats:
        """See `Store.stats`."""
        entries = self._of_tenant(tenant)
        times = [entry.kept_at for entry in entries]
        nbytes = sum(entry.context.nbytes for entry in entries)
        return StoreStats(len(entries), nbytes, min(times, default=None), max(times, default=None))

    @observed
    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """See `Store.lease`."""
        self._drop_expired()
        if key in self._leases:
            return None
        lease = Lease(key, secrets.token_hex(16))
        self._leases[key] = _Leased(lease.token, self._expiring_in(seconds))
        self._last_leases[key] = _Leased(lease.token, self._expiring_in(REMEMBERED_SECONDS))
        return lease

    @observed
    async def renew(self, lease: Lease, seconds: float) -> bool:
        """See `Store.renew`."""
        holds = self._holds(lease)
        if holds:
            self._leases[lease.key] = _Leased(lease.token, self._expiring_in(seconds))
        return holds

    @observed
    async def release(self, lease: Lease) -> None:
        """See `Store.release`."""
        if self._holds(lease):
            self._end(lease.key)

    @observed
    async def state(self, key: ContextKey) -> State:
        """See `Store.state`."""
        self._drop_expired()
        return "kept" if key in self._entries else "leased" if key in self._leases else "absent"

    @observed
    async def ping(self) -> None:
        """See `Store.ping`."""

    async def close(self) -> None:
        """See `Store.close`."""
        self._entries.clear()
        self._leases.clear()
        self._last_leases.clear()
        self.records.clear()
        self.images.clear()
        self._hold(-self.used_bytes)

    def _use(self, key: ContextKey, ttl: float | None) -> _Entry | None:
        self._drop_expired()
        entry = self._entries.get(key)
        if entry is not None:
            self._entries[key] = replace(entry, expires_at=self._expiry(ttl))
            self._entries.move_to_end(key)
        return entry

    def _of_tenant(self, tenant: str) -> Sequence[_Entry]:
        self._drop_expired()
        return [entry for key, entry in self._entries.items() if key.tenant == tenant]

    def _holds(self, lease: Lease) -> bool:
        self._drop_expired()
        leased = self._leases.get(lease.key)
        return leased is not None and leased.token == lease.token

    def _has_merely_expired(self, lease: Lease) -> bool:
        """Whether the lease is as good as one that holds: see `Store.put`."""
        last = self._last_leases.get(lease.key)
        is_free = lease.key not in self._leases and lease.key not in self._entries
        return is_free and last is not None and last.token == lease.token

    def _end(self, key: ContextKey) -> None:
        """End the lease on a key, whosever it is."""
        self._leases.pop(key, None)
        self._last_leases.pop(key, None)

    def _expiry(self, ttl: float | None) -> float:
        seconds = self._ttl if ttl is None else ttl
        return math.inf if seconds is None else self._expiring_in(seconds)

    def _expiring_in(self, seconds: float) -> float:
        expires_at = time.monotonic() + seconds
        self._earliest_expiry = min(self._earliest_expiry, expires_at)
        return expires_at

    def _hold(self, nbytes: int) -> None:
        self.used_bytes += nbytes
        self.observer.holds(self.tier, self.used_bytes)

    def _drop(self, key: ContextKey) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._hold(-entry.context.nbytes)
        return True

    def _drop_expired(self) -> None:
        now = time.monotonic()
        if now < self._earliest_expiry:
            return
        for key in [key for key, entry in self._entries.items() if entry.expires_at <= now]:
            self._drop(key)
        expiries = [entry.expires_at for entry in self._entries.values()]
        for leases in (self._leases, self._last_leases):
            for leased_key in [key for key, leased in leases.items() if leased.expires_at <= now]:
                del leases[leased_key]
            expiries += [leased.expires_at for leased in leases.values()]
        self._earliest_expiry = min(expiries, default=math.inf)

    def _describe(self, entry: _Entry) -> ContextInfo:
        context = entry.context
        return ContextInfo(
            key=context.key,
            model_fingerprint=context.identity.model_fingerprint,
            description=context.description,
            image_tokens=context.image_tokens,
            kept_tokens=context.kept_tokens,
            tokens=context.tokens,
            bytes=context.nbytes,
            created_at=context.created_at,
            expires_at=None if math.isinf(entry.expires_at) else time.time() + entry.expires_at - time.monotonic(),
            retention=context.identity.retention,
            selection=context.identity.selection,
            precision=context.identity.precision,
        )


def _owning_its_memory(context: CompressedContext) -> CompressedContext:
    """The context with tensors that are views into something larger copied: the budget counts what is held."""
    return replace(
        context,
        keys=_own_stored(context.keys),
        values=_own_stored(context.values),
        kept_indices=_own(context.kept_indices),
        scores=_own(context.scores),
    )


def _own_stored(tensor: QuantizedTensor) -> QuantizedTensor:
    return replace(tensor, parts=tuple(map(_own, tensor.parts)))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

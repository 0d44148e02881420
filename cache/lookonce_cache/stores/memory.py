"""Store contexts in this process's memory.

It is the default store, and the hot tier of a shared one.
"""

import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lookonce_cache.context import CompressedContext
from lookonce_cache.errors import ContextTooLargeError, LeaseLostError
from lookonce_cache.format.quantization import QuantizedTensor
from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.base import MAX_LISTED, ContextInfo, Lease, NodeUsage, Page, State, StoreHit, StoreStats
from lookonce_cache.stores.blobs import MEMORY_BYTES, MemoryBlobStore
from lookonce_cache.stores.cursor import Cursor, parse_cursor
from lookonce_cache.stores.observer import Eviction, StoreObserver, observed

DEFAULT_MAX_BYTES = 2 * 1024**3
GRACE_SECONDS = 3600.0  # for which an expired lease still allows a put, unless the next one is taken


@dataclass(frozen=True, slots=True)
class _Entry:
    context: CompressedContext
    put_at: float  # unix time in seconds
    expires_at: float  # in time.monotonic's seconds; infinite for never
    added_at: float = field(default_factory=time.monotonic)
    used_at: float = field(default_factory=time.monotonic)

    @property
    def cursor(self) -> Cursor:
        """The position in lists, which use does not change."""
        return Cursor(self.put_at, self.context.id)


@dataclass(frozen=True, slots=True)
class _LeaseEntry:
    token: str
    expires_at: float  # in time.monotonic's seconds


class MemoryStore:
    """Keep at most `max_bytes` of tensors, and drop the least recently used first.

    No method waits, so none is interrupted: within one event loop every call is atomic.

    Args:
        max_bytes: budget for the tensors of all tenants together, in bytes.
        ttl: seconds for which a context is kept after its last use; None for ever.
        observer: receives every call.
        record_bytes: budget for the records of all tenants together, in bytes.
        image_bytes: budget for the images of all tenants together, in bytes.
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
        self._leases: dict[ContextKey, _LeaseEntry] = {}
        self._last_leases: dict[ContextKey, _LeaseEntry] = {}  # the last lease of each key, expired or not
        # No entry expires before it, so that calls do not have to check all of them.
        self._earliest_expiry = math.inf
        self.observer.holds(self.tier, 0)

    @observed
    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """Get as `Store.get` says."""
        entry = self._use(key, ttl)
        if entry is None:
            return None
        self.observer.transferred(self.tier, "read", entry.context.nbytes)
        return StoreHit(entry.context, self.tier)

    @observed
    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """Peek as `Store.peek` says."""
        self._drop_expired()
        entry = self._entries.get(key)
        return None if entry is None else entry.context

    @observed
    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """Put as `Store.put` says.

        Raises:
            ContextTooLargeError: the context alone exceeds the budget; nothing is changed.
        """
        self._drop_expired()
        if lease is not None and not (self._holds(lease) or self._is_in_grace(lease)):
            raise LeaseLostError(f"the lease on context {context.id} does not hold any more")
        if context.nbytes > self.max_bytes:
            raise ContextTooLargeError(f"a context of {context.nbytes} bytes exceeds max_bytes={self.max_bytes}")
        if lease is not None:
            self._break_lease(lease.key)
        self._drop(context.key)
        while self.used_bytes + context.nbytes > self.max_bytes:
            self._evict(next(iter(self._entries)), "room")
        self._entries[context.key] = _Entry(_copy_views(context), time.time(), self._expiry(ttl))
        self._add_bytes(context.nbytes)
        self.observer.transferred(self.tier, "written", context.nbytes)

    @observed
    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """Touch as `Store.touch` says."""
        return self._use(key, ttl) is not None

    @observed
    async def delete(self, key: ContextKey) -> bool:
        """Delete as `Store.delete` says."""
        self._drop_expired()
        self._break_lease(key)
        return self._drop(key)

    @observed
    async def info(self, key: ContextKey) -> ContextInfo | None:
        """Describe as `Store.info` says."""
        self._drop_expired()
        entry = self._entries.get(key)
        return None if entry is None else self._describe(entry)

    @observed
    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """List as `Store.list` says."""
        cursor = parse_cursor(after)
        entries = [entry for entry in self._tenant_entries(tenant) if cursor is None or entry.cursor < cursor]
        entries = [entry for entry in entries if model in (None, entry.context.identity.model_fingerprint)]
        entries.sort(key=lambda entry: entry.cursor, reverse=True)
        shown = entries[: max(0, min(limit, MAX_LISTED))]
        more = str(shown[-1].cursor) if shown and len(shown) < len(entries) else None
        return Page(tuple(map(self._describe, shown)), more)

    @observed
    async def stats(self, tenant: str) -> StoreStats:
        """Count as `Store.stats` says."""
        entries = self._tenant_entries(tenant)
        times = [entry.put_at for entry in entries]
        nbytes = sum(entry.context.nbytes for entry in entries)
        return StoreStats(len(entries), nbytes, min(times, default=None), max(times, default=None))

    @observed
    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """Lease as `Store.lease` says."""
        self._drop_expired()
        if key in self._leases:
            return None
        lease = Lease(key, secrets.token_hex(16))
        self._leases[key] = _LeaseEntry(lease.token, self._expires_in(seconds))
        self._last_leases[key] = _LeaseEntry(lease.token, self._expires_in(GRACE_SECONDS))
        return lease

    @observed
    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Renew as `Store.renew` says."""
        is_held = self._holds(lease)
        if is_held:
            self._leases[lease.key] = _LeaseEntry(lease.token, self._expires_in(seconds))
        return is_held

    @observed
    async def release(self, lease: Lease) -> None:
        """Release as `Store.release` says."""
        if self._holds(lease):
            self._break_lease(lease.key)

    @observed
    async def state(self, key: ContextKey) -> State:
        """Tell as `Store.state` says."""
        self._drop_expired()
        return "kept" if key in self._entries else "leased" if key in self._leases else "absent"

    async def usage(self) -> Sequence[NodeUsage]:
        """Tell as `Store.usage` says."""
        self._drop_expired()
        return [NodeUsage(self.tier, "", self.used_bytes, self.max_bytes)]

    @observed
    async def ping(self) -> None:
        """Ping as `Store.ping` says."""

    async def close(self) -> None:
        """Close as `Store.close` says."""
        self._entries.clear()
        self._leases.clear()
        self._last_leases.clear()
        self.records.clear()
        self.images.clear()
        self._add_bytes(-self.used_bytes)

    def _use(self, key: ContextKey, ttl: float | None) -> _Entry | None:
        self._drop_expired()
        entry = self._entries.get(key)
        if entry is not None:
            self._entries[key] = replace(entry, expires_at=self._expiry(ttl), used_at=time.monotonic())
            self._entries.move_to_end(key)
        return entry

    def _tenant_entries(self, tenant: str) -> Sequence[_Entry]:
        self._drop_expired()
        return [entry for key, entry in self._entries.items() if key.tenant == tenant]

    def _holds(self, lease: Lease) -> bool:
        self._drop_expired()
        current = self._leases.get(lease.key)
        return current is not None and current.token == lease.token

    def _is_in_grace(self, lease: Lease) -> bool:
        """Tell whether an expired lease still allows a put; see `Store.put`."""
        last = self._last_leases.get(lease.key)
        is_free = lease.key not in self._leases and lease.key not in self._entries
        return is_free and last is not None and last.token == lease.token

    def _break_lease(self, key: ContextKey) -> None:
        """Break the lease on a key."""
        self._leases.pop(key, None)
        self._last_leases.pop(key, None)

    def _expiry(self, ttl: float | None) -> float:
        seconds = self._ttl if ttl is None else ttl
        return math.inf if seconds is None else self._expires_in(seconds)

    def _expires_in(self, seconds: float) -> float:
        expires_at = time.monotonic() + seconds
        self._earliest_expiry = min(self._earliest_expiry, expires_at)
        return expires_at

    def _add_bytes(self, nbytes: int) -> None:
        self.used_bytes += nbytes
        self.observer.holds(self.tier, self.used_bytes)

    def _drop(self, key: ContextKey) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._add_bytes(-entry.context.nbytes)
        return True

    def _evict(self, key: ContextKey, reason: Eviction) -> None:
        entry, now = self._entries[key], time.monotonic()
        self._drop(key)
        self.observer.evicted(self.tier, reason, now - entry.added_at, now - entry.used_at)

    def _drop_expired(self) -> None:
        now = time.monotonic()
        if now < self._earliest_expiry:
            return
        for key in [key for key, entry in self._entries.items() if entry.expires_at <= now]:
            self._evict(key, "expired")
        expiries = [entry.expires_at for entry in self._entries.values()]
        for leases in (self._leases, self._last_leases):
            for leased_key in [key for key, lease in leases.items() if lease.expires_at <= now]:
                del leases[leased_key]
            expiries += [lease.expires_at for lease in leases.values()]
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
            frames=context.frames,
        )


def _copy_views(context: CompressedContext) -> CompressedContext:
    """Copy tensors that are views of larger ones, which the budget would not count."""
    return replace(
        context,
        keys=_copy_parts(context.keys),
        values=_copy_parts(context.values),
        kept_indices=_copy_view(context.kept_indices),
        scores=_copy_view(context.scores),
        states={name: _copy_view(state) for name, state in context.states.items()},
    )


def _copy_parts(tensor: QuantizedTensor) -> QuantizedTensor:
    return replace(tensor, parts=tuple(map(_copy_view, tensor.parts)))


def _copy_view(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

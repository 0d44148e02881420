"""Define the interface of all stores, and the descriptions of stored contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.blobs import BlobStore

if TYPE_CHECKING:  # it imports torch
    from lookonce_cache.context import CompressedContext

MAX_LISTED = 1000

State = Literal["kept", "leased", "absent"]


class StoreHit(NamedTuple):
    """A context, and the tier that had it."""

    context: CompressedContext
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInfo:
    """Describe a stored context without its tensors.

    The fields are those of `CompressedContext` and its identity, except:

    Attributes:
        bytes: size of the tensors, the same in every store.
        expires_at: unix time in seconds at which the store drops the context; None for never.
    """

    key: ContextKey
    model_fingerprint: str
    description: str
    image_tokens: int
    kept_tokens: int
    tokens: int
    bytes: int
    created_at: float
    expires_at: float | None
    retention: float
    selection: str
    precision: str
    frames: int | None = None


class Page(NamedTuple):
    """A page of a tenant's contexts."""

    infos: tuple[ContextInfo, ...]
    next: str | None  # the `after` of the next page; None at the end


class StoreStats(NamedTuple):
    """The number and size of a tenant's contexts."""

    contexts: int
    bytes: int  # that deleting all contexts would free
    oldest: float | None  # unix time in seconds at which the oldest was last put; None if there is none
    newest: float | None


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """The memory of one server of a store, or of this process."""

    store: str  # tier
    node: str  # address; "" for this process
    used_bytes: int
    max_bytes: int | None  # beyond which contexts are evicted, or refused; None: no limit
    evicted_keys: int | None = None  # since the server started; None where the observer is told of each


@dataclass(frozen=True, slots=True)
class Lease:
    """A temporary right to make one context; see `Store.lease`."""

    key: ContextKey
    token: str  # distinguishes this holder from the next one


class Store(Protocol):
    """Keep contexts for `ttl` seconds after their last use, or until space is needed.

    Each use may set a `ttl` of its own, in seconds, which holds until the next use.

    A store is used from one event loop. A value that cannot be decoded, or that is the context of another key, is a
    miss: it is reported to the observer, and stays until it is overwritten, deleted or expires. (Deleting it could
    delete the good value that another server has just put in its place.)

    A key names the tenant; no method ever returns or changes another tenant's contexts.

    Every method except `close` may raise StoreUnavailableError; methods that write may raise its subclass
    WritesRefusedError while reads go on.

    Attributes:
        tier: the store's name in metrics, "memory" or "redis"; of a tiered store, the last tier's.
    """

    tier: str

    @property
    def records(self) -> BlobStore:
        """The records, stored beside the contexts and closed with them.

        A tiered store keeps them in its last tier.
        """

    @property
    def images(self) -> BlobStore:
        """The images, stored likewise; in memory they have a budget of their own."""

    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """Load a context, or return None; counts as use."""

    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """Load a context, or return None; does not count as use."""

    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """Store a context, in place of one with the same key; counts as use.

        With a lease, the context is stored only if the lease still holds, and the lease ends with it, in one step: a
        holder that was slow, stopped or cut off cannot bring back a context that was deleted or replaced meanwhile. A
        lease that has merely expired holds for another hour, unless the next one was taken, or a context was put or
        deleted: a pause does not throw the computed context away.

        Raises:
            ContextTooLargeError: the store could never hold the context.
            LeaseLostError: the lease was taken by another holder, broken, or ended by a put; nothing was changed.
        """

    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """Count as use without loading; returns whether the context is there."""

    async def delete(self, key: ContextKey) -> bool:
        """Delete a context and break its lease; returns whether there was a context."""

    async def info(self, key: ContextKey) -> ContextInfo | None:
        """Describe a context, or return None; does not count as use."""

    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """List a tenant's contexts, the newest first; does not count as use.

        A page has fewer than `limit` contexts only if there are no more.

        Args:
            tenant: the tenant's name.
            limit: the largest number of contexts, at most `MAX_LISTED`.
            after: the `next` of the page before; any other text lists from the start.
            model: fingerprint of the model that made the contexts; None for all models.
        """

    async def stats(self, tenant: str) -> StoreStats:
        """Count a tenant's contexts; does not count as use."""

    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """Take the lease on making a context, or return None while another holder has it.

        A lease saves work between servers and is no lock: a store may forget leases.
        """

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Extend a lease to `seconds` from now; returns False if it no longer holds."""

    async def release(self, lease: Lease) -> None:
        """Release a lease, if it still holds."""

    async def state(self, key: ContextKey) -> State:
        """Tell whether the context is there, or leased; does not count as use."""

    async def usage(self) -> Sequence[NodeUsage]:
        """Return the memory of each server, except of those that do not tell; raises nothing."""

    async def ping(self) -> None:
        """Raise StoreUnavailableError unless the store works, at least for reads."""

    async def close(self) -> None:
        """Release connections and memory; the store is not used after it."""

"""The one interface of all stores, and what they tell about a context without loading it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from lookonce_cache.context import CompressedContext
from lookonce_cache.identity import ContextKey
from lookonce_cache.stores.blobs import BlobStore

MAX_LISTED = 1000

State = Literal["kept", "leased", "absent"]


class StoreHit(NamedTuple):
    """A context, and the tier of the store that had it."""

    context: CompressedContext
    tier: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInfo:
    """A stored context without its tensors. Fields are those of `CompressedContext` and its identity, except:

    Attributes:
        bytes: size of the tensors, the same in every store.
        expires_at: unix time in seconds when the store drops the context, None for never.
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


class Page(NamedTuple):
    """Some of a tenant's contexts."""

    infos: tuple[ContextInfo, ...]
    next: str | None  # what `Store.list` takes as `after` to go on; None at the end


class StoreStats(NamedTuple):
    """A tenant's contexts, in sum."""

    contexts: int
    bytes: int  # as the store counts them: what deleting all would free
    oldest: float | None  # unix time in seconds when the oldest was made or stored anew; None where there is none
    newest: float | None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to make one context, for a while; see `Store.lease`."""

    key: ContextKey
    token: str  # tells this holder from the next one


class Store(Protocol):
    """Keeps contexts for `ttl` seconds after their last use, or shorter when room is needed.

    A use may give another `ttl` for itself, in seconds: the next use decides anew.

    A store is used from one event loop. A value that cannot be decoded, or that is not the context of the key asked
    for, is a miss: it is reported to the observer, and stays until it is overwritten, deleted or expires. (Deleting it
    could delete the good value that another server has just put in its place.)

    A key says whose context it is; no method ever shows or changes another tenant's.

    Every method except `close` may raise StoreUnavailableError; those that write WritesRefusedError, one of its kind,
    while reads go on.

    Attributes:
        tier: the store's name in metrics: "memory" or "redis"; of a tiered store, the last tier's.
    """

    tier: str

    @property
    def records(self) -> BlobStore:
        """Kept in the same place as the contexts, and closed with them; of a tiered store, in the last tier."""

    @property
    def images(self) -> BlobStore:
        """The same for images: where memory has a budget, they have one of their own and push no record out."""

    async def get(self, key: ContextKey, *, ttl: float | None = None) -> StoreHit | None:
        """The context, or None. Counts as use."""

    async def peek(self, key: ContextKey) -> CompressedContext | None:
        """The context, or None. Does not count as use."""

    async def put(self, context: CompressedContext, lease: Lease | None = None, *, ttl: float | None = None) -> None:
        """Keep the context, in place of one with the same key. Counts as use.

        With a lease, the context is kept only if the lease still holds, and the lease ends with it, in one step: a
        holder that was slow, stopped or cut off cannot bring back what was deleted, or replaced, meanwhile. One that
        has merely expired is as good for an hour, as long as nobody has taken the next one, and nothing was put or
        deleted: what was computed is not thrown away because of a pause.

        Raises:
            ContextTooLargeError: the store could never hold it.
            LeaseLostError: the lease is somebody else's, or was broken, or ended with a context; nothing was changed.
        """

    async def touch(self, key: ContextKey, *, ttl: float | None = None) -> bool:
        """Count as use without loading; whether there is such a context."""

    async def delete(self, key: ContextKey) -> bool:
        """Forget the context and break a lease on its key; whether there was a context."""

    async def info(self, key: ContextKey) -> ContextInfo | None:
        """What is known of the context, or None. Does not count as use."""

    async def list(self, tenant: str, *, limit: int = 100, after: str | None = None, model: str | None = None) -> Page:
        """List up to `limit` of a tenant's contexts, at most `MAX_LISTED`. Does not count as use.

        A page has fewer only where there are no more.

        Args:
            tenant: whose.
            limit: how many.
            model: the fingerprint of the model that made them; None lists the contexts of all models.
            after: the `next` of the page before; one that no store gave out lists from the start.
        """

    async def stats(self, tenant: str) -> StoreStats:
        """A tenant's contexts, in sum. Does not count as use."""

    async def lease(self, key: ContextKey, seconds: float) -> Lease | None:
        """The right to make this context, for that long, or None while somebody else has it.

        It is a courtesy between servers that saves work, and no lock: a store may forget leases.
        """

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Hold a lease for that long from now on; False, and nothing happens, if it no longer holds."""

    async def release(self, lease: Lease) -> None:
        """End a lease, if it still holds."""

    async def state(self, key: ContextKey) -> State:
        """Whether the context is there, else whether somebody has a lease to make it. Does not count as use."""

    async def ping(self) -> None:
        """Return if the store works, for reads at least, and raise StoreUnavailableError if it does not."""

    async def close(self) -> None:
        """Let go of connections and memory. The store is not used after it."""

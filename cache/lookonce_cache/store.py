"""The one interface of all stores, and what they tell about a context without loading it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lookonce_cache.context import CompressedContext

MAX_LISTED = 1000

OnDamaged = Callable[[str], None]
"""Called with `ContextFormatError.reason` for every damaged value met; runs in the event loop, so it must be quick."""


def ignore_damage(reason: str) -> None:
    """The `OnDamaged` that does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInfo:
    """A stored context without its tensors. Fields are those of `CompressedContext`, except:

    Attributes:
        bytes: size of the tensors, the same in every store.
        expires_at: unix time in seconds when the store drops the context, None for never.
    """

    id: str
    description: str
    image_tokens: int
    kept_tokens: int
    tokens: int
    bytes: int
    created_at: float
    expires_at: float | None
    retention: float
    selection: str


class Store(Protocol):
    """Keeps contexts by id for `ttl` seconds after their last use, or shorter when room is needed.

    A store is used from one event loop. A value that cannot be decoded is a miss: it is reported to `on_damaged`, and
    stays until it is overwritten, deleted or expires. (Deleting it could delete the good value that another server has
    just put in its place.)

    Every method except `close` may raise StoreUnavailableError.

    Attributes:
        tier: the store's name in metrics, "memory" or "redis".
    """

    tier: str

    async def get(self, context_id: str) -> CompressedContext | None:
        """The context, or None. Counts as use."""

    async def put(self, context: CompressedContext) -> None:
        """Keeps the context, in place of one with the same id. Counts as use. May raise ContextTooLargeError."""

    async def delete(self, context_id: str) -> bool:
        """Forgets the context; whether there was one."""

    async def info(self, context_id: str) -> ContextInfo | None:
        """What is known of the context, or None. Does not count as use."""

    async def list(self, limit: int = 100) -> tuple[ContextInfo, ...]:
        """Up to `limit` contexts in no particular order, at most `MAX_LISTED`. Does not count as use."""

    async def ping(self) -> None:
        """Returns if the store works, and raises StoreUnavailableError if it does not."""

    async def close(self) -> None:
        """Lets go of connections and memory. The store is not used after it."""

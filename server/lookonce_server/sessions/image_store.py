"""Images kept beside their contexts, as they were sent, so that a question that names a context can be asked of it all.

Invariant: an image is found only by whoever's context it is, by that context's id; deleting the context deletes it, and
it is renewed only when the context is.
"""

import logging

from lookonce_cache import BlobKey, CacheError, ContextKey, Store, digest
from lookonce_server.images.sources import ImageBytes

_log = logging.getLogger(__name__)


class KeptImages:
    """The images of a store's contexts.

    Args:
        store: keeps both.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def keep(self, key: ContextKey, data: bytes, ttl: float | None) -> None:
        """Keep the image of a context that the store has; where it cannot be kept, the context serves without it."""
        try:
            await self._store.records.write(_record(key), data, ttl=ttl)
            if await self._store.state(key) != "kept":  # deleted meanwhile: whoever did may have come before the image
                await self.forget(key)
        except CacheError as error:
            _log.warning("the image of context %s was not kept: %s", key.id[:12], error)

    async def find(self, key: ContextKey, ttl: float | None) -> ImageBytes | None:
        """The image of a context, renewed as the context is; None where there is none, or the store does not tell."""
        try:
            data = await self._store.records.read(_record(key), ttl=ttl)
        except CacheError as error:
            _log.warning("%s", error)
            return None
        return None if data is None else ImageBytes(data, "messages")

    async def forget(self, key: ContextKey) -> None:
        """Forget the image of a context, if it is kept; raises StoreUnavailableError."""
        await self._store.records.forget(_record(key))


def _record(key: ContextKey) -> BlobKey:
    """Where the image of a context is: among the records, but never where a response could be."""
    return BlobKey(key.tenant, digest(f"image of context {key.id}".encode()))

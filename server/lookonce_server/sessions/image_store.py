"""Keep images beside their contexts, for full passes of questions by id.

Invariant: an image is found by its context's id alone, and by its context's tenant alone. Deleting the context deletes
it, and it is renewed only when the context is.
"""

import logging

from lookonce_cache import BlobKey, CacheError, ContextKey, Store, digest
from lookonce_server.images.sources import ImageBytes

_log = logging.getLogger(__name__)


class ImageStore:
    """Keep the images of a store's contexts, as they were sent.

    Args:
        store: keeps both.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def put(self, key: ContextKey, image: ImageBytes, ttl: float | None) -> None:
        """Keep the image of a stored context; a failure is logged, no more."""
        try:
            await self._store.images.write(_blob_key(key), image.encode(), ttl=ttl)
            if await self._store.state(key) != "kept":  # deleted meanwhile, perhaps before the image was written
                await self.delete(key)
        except CacheError as error:
            _log.warning("the image of context %s was not kept: %s", key.id[:12], error)

    async def get(self, key: ContextKey, ttl: float | None) -> ImageBytes | None:
        """Return and renew the image of a context; None if it cannot be had."""
        try:
            data = await self._store.images.read(_blob_key(key), ttl=ttl)
        except CacheError as error:
            _log.warning("the image of context %s was not read: %s", key.id[:12], error)
            return None
        return None if data is None else ImageBytes.decode(data, "messages")

    async def delete(self, key: ContextKey) -> None:
        """Delete the image of a context, if it is kept; raises StoreUnavailableError."""
        await self._store.images.forget(_blob_key(key))


def _blob_key(key: ContextKey) -> BlobKey:
    """Derive the key of a context's image, which is never the key of a response."""
    return BlobKey(key.tenant, digest(f"image of context {key.id}".encode()))

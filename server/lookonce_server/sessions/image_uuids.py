"""Bind the names that clients give their images to what these images are.

vLLM takes a client's `uuid` for the image itself: the same uuid with other pixels answers about the first ones. Here a
name is bound to one content, of one tenant, and is never bound to another one as long as it is used. So an image that
comes by its name alone is the one that was sent under that name.
"""

import logging

from lookonce_cache import BlobKey, BlobStore, CacheError, digest
from lookonce_server.errors import ImageUuidError, UuidNotKnownError

_log = logging.getLogger(__name__)


class ImageUuids:
    """Bind the uuids of tenants' images.

    Args:
        records: of the server's store.
    """

    def __init__(self, records: BlobStore) -> None:
        self._records = records

    async def find(self, tenant: str, uuid: str, *, param: str, ttl: float | None) -> str:
        """Return the digest of the image with a uuid. Counts as use.

        Args:
            tenant: whose image it is.
            uuid: as the client says.
            param: the request's field that has it.
            ttl: seconds for which this use renews it.

        Raises:
            UuidNotKnownError: no image of this tenant has it.
            StoreUnavailableError: the store does not answer.
        """
        bound = await self._records.read(_key(tenant, uuid), ttl=ttl)
        if bound is None:
            raise UuidNotKnownError(uuid, param=param)
        return bound.decode()

    async def check(self, tenant: str, uuid: str, image_digest: str, *, param: str, ttl: float | None) -> None:
        """Raise ImageUuidError if a uuid is another image's; a store that does not answer is passed over."""
        try:
            bound = await self._records.read(_key(tenant, uuid), ttl=ttl)
        except CacheError as error:
            _log.warning("a uuid was not looked up: %s", error)
            return
        if bound is not None and bound != image_digest.encode():
            raise ImageUuidError(uuid, param=param)

    async def bind(self, tenant: str, uuid: str, image_digest: str, *, param: str, ttl: float | None) -> None:
        """Bind a uuid to an image, once; see `check`."""
        try:
            if await self._records.add(_key(tenant, uuid), image_digest.encode(), ttl=ttl):
                return
        except CacheError as error:
            _log.warning("a uuid was not bound: %s", error)
            return
        await self.check(tenant, uuid, image_digest, param=param, ttl=ttl)


def _key(tenant: str, uuid: str) -> BlobKey:
    """Derive the key of a uuid's record, which is never the key of a response."""
    return BlobKey(tenant, digest(f"image uuid {uuid}".encode()))

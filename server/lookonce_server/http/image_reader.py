"""Read the images of a request: by URL, by the id of a file, or by a uuid."""

import asyncio
from collections.abc import Sequence

from lookonce_cache import digest
from lookonce_server.concurrency import gather_in_order
from lookonce_server.errors import ImageUuidError, InvalidImageError, InvalidRequestError
from lookonce_server.http.image_field import ImageField
from lookonce_server.http.state import AppState
from lookonce_server.images.sources import ContextReference, ImageBytes, ImageSource, check_size
from lookonce_server.sessions.answer_passes import Session
from lookonce_server.sessions.context_options import NO_OPTIONS, ContextOptions


class ImageReader:
    """Read the images of one request.

    Args:
        state: the server's parts.
        tenant: whose request it is, whose files and uuids are meant.
        options: of the request's contexts.
    """

    def __init__(self, state: AppState, tenant: str, options: ContextOptions = NO_OPTIONS) -> None:
        self._state = state
        self._tenant = tenant
        self._options = options
        self._named: dict[str, tuple[str, str]] = {}  # of each uuid that came with its image: the digest, and the field

    async def read_all(self, fields: Sequence[ImageField]) -> list[ImageSource]:
        """Read images at once; together they may have as many bytes as a request's body.

        Raises:
            InvalidImageError: one cannot be read; of several, the first in order.
            ImageUuidError: a uuid is another image's.
            FileNotKnownError, UuidNotKnownError: a file or a uuid does not exist.
            OverloadedError: too many images are being fetched.
        """
        limit, size = self._state.settings.max_body_bytes, 0

        async def read(field: ImageField) -> ImageSource:
            nonlocal size
            source = await self.read(field)
            size += len(source.data) if isinstance(source, ImageBytes) else 0
            if size > limit:
                del source  # the error's traceback would hold it until the others have been read
                raise InvalidImageError(
                    f"The images have more bytes together than the limit of {limit}.", param="messages"
                )
            return source

        sources = await gather_in_order(map(read, fields))
        for field, source in zip(fields, sources, strict=True):
            if field.uuid is not None and field.url is not None:
                await self._check_uuid(field.uuid, source, field.uuid_param)
        return sources

    async def read(self, field: ImageField) -> ImageSource:
        """Read one image, without a look at its uuid; see `read_all`."""
        if field.file_id is not None:
            return await self._read_file(field.file_id, field.param)
        if field.url is None:
            return await self._find(field)
        return await self._state.images.read(field.url, field.param, field.sampling)

    async def bind_uuids(self, session: Session) -> Session:
        """Bind the uuids of images that came with them, once the question about them is being answered.

        Not before, since a name should not be bound to bytes that are no image.

        Raises:
            ImageUuidError: another request has bound one to another image meanwhile; the answers are closed.
        """
        try:
            for uuid, (image_digest, param) in self._named.items():
                await self._state.uuids.bind(self._tenant, uuid, image_digest, param=param, ttl=self._options.ttl)
        except BaseException:
            await asyncio.gather(*(answer.aclose() for answer in session.answers))
            raise
        return session

    async def _read_file(self, file_id: str, param: str) -> ImageBytes:
        files = self._state.files
        if files is None:
            raise InvalidRequestError(f"{param}: this server keeps no files.", param=param)
        data = await files.read(self._tenant, file_id, param=param)
        check_size(data, self._state.images.image_media, param)
        return ImageBytes(data, param)

    async def _find(self, field: ImageField) -> ContextReference:
        """Return the context of an image that comes by its uuid alone, as these options make it."""
        assert field.uuid is not None
        uuids, contexts = self._state.uuids, self._state.contexts
        image_digest = await uuids.find(self._tenant, field.uuid, param=field.uuid_param, ttl=self._options.ttl)
        identity = await asyncio.to_thread(contexts.identity_of, self._tenant, image_digest, self._options)
        return ContextReference(identity.key().id)

    async def _check_uuid(self, uuid: str, source: ImageSource, param: str) -> None:
        if not isinstance(source, ImageBytes):
            raise InvalidRequestError(
                f"{param}: a uuid names an image that is sent; here its context is named already.", param=param
            )
        image_digest = await asyncio.to_thread(digest, source.content)
        if self._named.setdefault(uuid, (image_digest, param))[0] != image_digest:
            raise ImageUuidError(uuid, param=param)
        await self._state.uuids.check(self._tenant, uuid, image_digest, param=param, ttl=self._options.ttl)

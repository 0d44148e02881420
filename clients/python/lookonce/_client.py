"""Connect to a lookonce server, blocking or with asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast

from . import _requests
from ._image import Image
from ._images import Images
from ._reference import ImageReference, ImageSource, VideoSource, parse_context_id, read_image, read_video
from ._requests import Request
from ._server import DEFAULT_RETRIES, Server
from ._session import AsyncImageSession, AsyncImagesSession, ImageSession, ImagesSession
from ._types import Context, ContextOptions, ContextStats, ImageOptions, Saved

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 600.0  # seconds; a large image on a CPU takes its time
T = TypeVar("T")


class _BaseClient:
    """Hold the state of a client, and check its arguments."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def saved(self) -> Saved:
        """The savings of all questions so far."""
        return self._server.saved.total

    def _images(self, options: ImageOptions, *references: ImageReference, forget_on_exit: bool = False) -> Images:
        _requests.check_options(options, ImageOptions)
        images = [Image(self._server, reference, options) for reference in references]
        return Images(self._server, images, options, forget_on_exit=forget_on_exit)

    def _image_to_prepare(self, source: ImageSource, options: ContextOptions) -> Image:
        _requests.check_options(options, ContextOptions)
        return Image(self._server, read_image(source), cast(ImageOptions, options))


class Client(_BaseClient):
    """Ask one server about images; any number of threads may use it.

        with Client() as client, client.image("street.jpg") as photo:
            print(photo.ask("What colour is the car?").text)

    Its methods raise LookonceError; `_exceptions.py` draws the tree.

    Args:
        base_url: the server's address.
        api_key: the API key, sent as a bearer token.
        timeout: seconds to wait for the server's next bytes.
        max_retries: how often a request is sent again after a temporary failure: no connection, or a status of 408,
            429, 502, 503 or 504. The first retry comes half a second later, each further one after twice as long, none
            sooner than the server says (`retry-after`); a server that asks for more than a minute is not waited for.
        model: the model to ask; None takes the first that the server serves.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_RETRIES,
        model: str | None = None,
    ) -> None:
        from ._transport import Transport  # imports httpx2, which takes longer than the rest together

        super().__init__(Server(model, max_retries))
        self._transport = Transport(base_url, api_key, timeout)

    def image(self, source: ImageSource, *, forget: bool = False, **options: Unpack[ImageOptions]) -> ImageSession:
        """Take an image to ask about; nothing is sent yet.

        Args:
            source: a path, the bytes of an image file, a picture of Pillow's, a `data:` or `http(s):` URL, or
                `lookonce:<context id>`. A file is read at once.
            forget: delete the context from the server at the end of the session's `with` block.
            options: the options of every request about the image, those of `ImageOptions`.
        """
        return ImageSession(self._images(options, read_image(source), forget_on_exit=forget), self._transport)

    def images(
        self, *sources: ImageSource | ImageSession, forget: bool = False, **options: Unpack[ImageOptions]
    ) -> ImagesSession:
        """Take images to ask about together; nothing is sent yet.

        Args:
            sources: the images in their order, each as `image` takes it, or a session that `image` returned, with the
                same options of the context. With none, a `chat` begins without an image.
            forget: delete all their contexts from the server at the end of the session's `with` block.
            options: the options of every request about the images, those of `ImageOptions`.
        """
        return ImagesSession(self._images(options, forget_on_exit=forget), self._transport, sources)

    def video(
        self,
        source: VideoSource,
        *,
        fps: float | None = None,
        max_frames: int | None = None,
        forget: bool = False,
        **options: Unpack[ImageOptions],
    ) -> ImageSession:
        """Take a video to ask about, in a session as of an image; nothing is sent yet.

        Args:
            source: a path, the bytes of a file (MP4, WebM, GIF, WebP), a list of frames, each as `image` takes it with
                its pixels, a `data:` or `http(s):` URL, or `lookonce:<context id>`.
            fps: how many frames a second the model sees; None for the server's choice.
            max_frames: how many it sees at most, further apart in a longer video; None for the server's limit.
            forget: as of `image`.
            options: as of `image`.
        """
        reference = read_video(source, fps=fps, max_frames=max_frames)
        return ImageSession(self._images(options, reference, forget_on_exit=forget), self._transport)

    def create_context(self, source: ImageSource, **options: Unpack[ContextOptions]) -> Context:
        """Have the server make an image's context, with options of `ContextOptions`."""
        return self._transport.run(self._image_to_prepare(source, options).prepare())

    def get_context(self, id: str) -> Context:  # noqa: A002 - the API's own word
        """Return a context by its id; raises ContextNotFoundError."""
        return self._send(_requests.get_context(parse_context_id(id)))

    def list_contexts(self, *, limit: int | None = None) -> Iterator[Context]:
        """Yield the caller's contexts, the newest first; pages are fetched as needed.

        Args:
            limit: the largest number of contexts; None for all.
        """
        for page in self._server.context_pages(limit):
            yield from self._transport.run(page)

    def context_stats(self) -> ContextStats:
        """Return the statistics of the caller's contexts."""
        return self._send(_requests.context_stats())

    def delete_context(self, id: str) -> None:  # noqa: A002 - the API's own word
        """Delete a context by its id.

        Raises:
            ContextNotFoundError: there is no such context; or it was deleted, and only the reply was lost.
        """
        self._send(_requests.delete_context(parse_context_id(id)))

    def models(self) -> list[str]:
        """Return the names of the models served."""
        return self._send(_requests.list_models())

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _send(self, request: Request[T]) -> T:
        return self._transport.run(self._server.send(request))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_BaseClient):
    """Do the same as `Client`, for asyncio: methods that ask the server are awaited.

    async with AsyncClient() as client, client.image("street.jpg") as photo:
        print((await photo.ask("What colour is the car?")).text)
    """

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = DEFAULT_RETRIES,
        model: str | None = None,
    ) -> None:
        from ._transport import AsyncTransport

        super().__init__(Server(model, max_retries))
        self._transport = AsyncTransport(base_url, api_key, timeout)

    def image(self, source: ImageSource, *, forget: bool = False, **options: Unpack[ImageOptions]) -> AsyncImageSession:
        """Do the same as `Client.image`; reading a file blocks, giving its bytes does not."""
        return AsyncImageSession(self._images(options, read_image(source), forget_on_exit=forget), self._transport)

    def images(
        self, *sources: ImageSource | AsyncImageSession, forget: bool = False, **options: Unpack[ImageOptions]
    ) -> AsyncImagesSession:
        """Do the same as `Client.images`."""
        return AsyncImagesSession(self._images(options, forget_on_exit=forget), self._transport, sources)

    def video(
        self,
        source: VideoSource,
        *,
        fps: float | None = None,
        max_frames: int | None = None,
        forget: bool = False,
        **options: Unpack[ImageOptions],
    ) -> AsyncImageSession:
        """Do the same as `Client.video`."""
        reference = read_video(source, fps=fps, max_frames=max_frames)
        return AsyncImageSession(self._images(options, reference, forget_on_exit=forget), self._transport)

    async def create_context(self, source: ImageSource, **options: Unpack[ContextOptions]) -> Context:
        """Do the same as `Client.create_context`."""
        return await self._transport.run(self._image_to_prepare(source, options).prepare())

    async def get_context(self, id: str) -> Context:  # noqa: A002 - the API's own word
        """Do the same as `Client.get_context`."""
        return await self._send(_requests.get_context(parse_context_id(id)))

    async def list_contexts(self, *, limit: int | None = None) -> AsyncIterator[Context]:
        """Do the same as `Client.list_contexts`."""
        for page in self._server.context_pages(limit):
            for context in await self._transport.run(page):
                yield context

    async def context_stats(self) -> ContextStats:
        """Do the same as `Client.context_stats`."""
        return await self._send(_requests.context_stats())

    async def delete_context(self, id: str) -> None:  # noqa: A002 - the API's own word
        """Do the same as `Client.delete_context`."""
        await self._send(_requests.delete_context(parse_context_id(id)))

    async def models(self) -> list[str]:
        """Do the same as `Client.models`."""
        return await self._send(_requests.list_models())

    async def close(self) -> None:
        """Do the same as `Client.close`."""
        await self._transport.close()

    async def _send(self, request: Request[T]) -> T:
        return await self._transport.run(self._server.send(request))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

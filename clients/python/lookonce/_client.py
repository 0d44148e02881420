"""The clients of a lookonce server: one that blocks, and one that is awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Self, Unpack, cast

from ._flows import Server
from ._image_flows import Image
from ._images import ImageSource, reference
from ._protocol import check_options
from ._retries import DEFAULT_RETRIES
from ._saved import Saved
from ._session import AsyncImageSession, ImageSession
from ._types import Context, ContextOptions, ContextStats, ImageOptions

DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 600.0  # seconds; a large image on a CPU takes its time


class _KnownOfAServer:
    """What a client knows without asking."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def saved(self) -> Saved:
        """What the questions about all images saved so far."""
        return self._server.tally.saved

    def _image(self, source: ImageSource, options: ImageOptions, *, forgets: bool = False) -> Image:
        check_options(options, ImageOptions)
        return Image(self._server, reference(source), options, forgets=forgets)

    def _image_to_keep(self, source: ImageSource, options: ContextOptions) -> Image:
        check_options(options, ContextOptions)
        return self._image(source, cast(ImageOptions, options))


class Client(_KnownOfAServer):
    """A client of one server; any number of threads may use it.

        with Client() as client, client.image("street.jpg") as photo:
            print(photo.ask("What colour is the car?").text)

    Its methods raise LookonceError; `_exceptions.py` draws the tree.

    Args:
        base_url: where the server listens.
        api_key: sent as a bearer token, where the server asks for one.
        timeout: seconds to wait for the server's next bytes.
        max_retries: how often a request is sent again that met a moment's trouble: no connection, or a status of 408,
            429, 502, 503 or 504. The first comes half a second later, each further one after twice as long, none sooner
            than the server says (`retry-after`); a server that wants more than a minute is not waited for.
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
        from ._transport import Transport  # with it comes httpx2, which takes longer than the rest together

        super().__init__(Server(model, max_retries))
        self._transport = Transport(base_url, api_key, timeout)

    def image(self, source: ImageSource, *, forget: bool = False, **options: Unpack[ImageOptions]) -> ImageSession:
        """Take an image to ask about; nothing is sent yet.

        Args:
            source: a path, the bytes of an image file, a `data:` or `http(s):` URL, or `lookonce:<context id>`. A file
                is read at once.
            forget: delete the context from the server at the end of the session's `with` block.
            options: that ride on every request about the image, those of `ImageOptions`.
        """
        return ImageSession(self._image(source, options, forgets=forget), self._transport)

    def create_context(self, source: ImageSource, **options: Unpack[ContextOptions]) -> Context:
        """Have the server look at an image and keep its context; the options are those of `ContextOptions`."""
        return self._transport.run(self._image_to_keep(source, options).prepare())

    def get_context(self, id: str) -> Context:  # noqa: A002 - the API's own word
        """One context, by its id; raises ContextNotFoundError."""
        return self._transport.run(self._server.get_context(id))

    def list_contexts(self, *, limit: int | None = None) -> Iterator[Context]:
        """The contexts the server keeps for the caller, those stored last first; pages are fetched as they are needed.

        Args:
            limit: how many at most; None for all.
        """
        for page in self._server.pages(limit):
            yield from self._transport.run(page)

    def context_stats(self) -> ContextStats:
        """What the contexts amount to that the server keeps for the caller."""
        return self._transport.run(self._server.context_stats())

    def delete_context(self, id: str) -> None:  # noqa: A002 - the API's own word
        """Remove a context, by its id; raises ContextNotFoundError, also where only the reply to a removal was lost."""
        self._transport.run(self._server.delete_context(id))

    def models(self) -> list[str]:
        """The names of the models served."""
        return self._transport.run(self._server.models())

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_KnownOfAServer):
    """As `Client`, for asyncio: what asks the server is awaited.

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
        """As `Client.image`; reading a file blocks, so where that matters give its bytes."""
        return AsyncImageSession(self._image(source, options, forgets=forget), self._transport)

    async def create_context(self, source: ImageSource, **options: Unpack[ContextOptions]) -> Context:
        """As `Client.create_context`."""
        return await self._transport.run(self._image_to_keep(source, options).prepare())

    async def get_context(self, id: str) -> Context:  # noqa: A002 - the API's own word
        """As `Client.get_context`."""
        return await self._transport.run(self._server.get_context(id))

    async def list_contexts(self, *, limit: int | None = None) -> AsyncIterator[Context]:
        """As `Client.list_contexts`."""
        for page in self._server.pages(limit):
            for context in await self._transport.run(page):
                yield context

    async def context_stats(self) -> ContextStats:
        """As `Client.context_stats`."""
        return await self._transport.run(self._server.context_stats())

    async def delete_context(self, id: str) -> None:  # noqa: A002 - the API's own word
        """As `Client.delete_context`."""
        await self._transport.run(self._server.delete_context(id))

    async def models(self) -> list[str]:
        """As `Client.models`."""
        return await self._transport.run(self._server.models())

    async def close(self) -> None:
        """As `Client.close`."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

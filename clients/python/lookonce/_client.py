"""The client of a lookonce server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType

from . import _protocol
from ._exceptions import APIResponseError
from ._images import ImageSource, context_id, reference
from ._session import ImageSession
from ._transport import Transport
from ._types import Context, ContextStats

DEFAULT_SERVER = "http://127.0.0.1:8000"
PAGE = 100  # contexts fetched at a time
DEFAULT_TIMEOUT = 600.0  # seconds; a large image on a CPU takes its time


class Lookonce:
    """A client of one server.

        with Lookonce() as client:
            image = client.image("street.jpg")
            print(image.ask("What colour is the car?").text)

    Its methods raise LookonceError; `_exceptions.py` draws the tree.

    Attributes:
        base_url: where the server listens.
        api_key: sent as a bearer token, where the server asks for one.
        timeout: seconds to wait for the server's next bytes.
        model: the model to ask; None takes the first that the server serves.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        model: str | None = None,
    ) -> None:
        self._transport = Transport(base_url, api_key, timeout)
        self._model = model

    def image(self, source: ImageSource, *, prepare: bool = False) -> ImageSession:
        """Take an image to ask about.

        Args:
            source: a path, the bytes of an image file, a `data:` or `http(s):` URL, or `lookonce:<context id>`.
            prepare: have the server look at it now, so that the first answer too comes from the context.
        """
        session = ImageSession(reference(source), self._transport, self._model_id)
        if prepare:
            session.prepare()
        return session

    def create_context(self, source: ImageSource) -> Context:
        """Have the server look at an image and keep its context."""
        return self.image(source).prepare()

    def get_context(self, id: str) -> Context:  # noqa: A002 - the API's own word
        """One context, by its id; raises ContextNotFoundError."""
        return _protocol.read_context(self._transport.send(_protocol.get_context(context_id(id))))

    def list_contexts(self, *, limit: int | None = None) -> Iterator[Context]:
        """The contexts the server keeps for the caller, those stored last first; pages are fetched as they are needed.

        Args:
            limit: how many at most; None for all.
        """
        left = sys.maxsize if limit is None else limit
        after = None
        while left > 0:
            reply = self._transport.send(_protocol.list_contexts(min(left, PAGE), after))
            page = _protocol.read_page(reply)
            yield from page.contexts[:left]
            left, after = left - len(page.contexts), page.next
            if after is None:
                return

    def context_stats(self) -> ContextStats:
        """What the contexts amount to that the server keeps for the caller."""
        return _protocol.read_stats(self._transport.send(_protocol.context_stats()))

    def delete_context(self, id: str) -> None:  # noqa: A002 - the API's own word
        """Remove a context, by its id; raises ContextNotFoundError."""
        self._transport.send(_protocol.delete_context(context_id(id)))

    def models(self) -> list[str]:
        """The names of the models served."""
        return _protocol.read_model_ids(self._transport.send(_protocol.list_models()))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Lookonce:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _model_id(self) -> str:
        """The model to ask, looked up once."""
        if self._model is None:
            served = self.models()
            if not served:
                raise APIResponseError("the server serves no model")
            self._model = served[0]
        return self._model

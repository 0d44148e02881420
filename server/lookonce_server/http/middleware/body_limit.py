"""Limits on request bodies, held while they arrive: no request fills the memory, and none takes for ever."""

import asyncio
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookonce_server.errors import BodyTimeoutError, BodyTooLargeError, OverloadedError, ServerError
from lookonce_server.http.middleware.reject import refuse_and_close

_LONGEST_LENGTH = 20  # digits; a number of more is no smaller for its first ones


class BodyLimit:
    """ASGI middleware that refuses bodies which are too large or too slow, whether or not they tell their length.

    Args:
        app: what it wraps.
        max_bytes: largest body let through.
        max_held_bytes: of all bodies whose requests are under way, as far as they have arrived.
        seconds: that a body may take to arrive.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_held_bytes: int, seconds: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._seconds = seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            if body.refused and not started:
                return  # what the app makes of a body that breaks off: the answer is below
            started = True
            await send(message)

        try:
            length = Headers(scope=scope).get("content-length", "")
            body.check(int(length[:_LONGEST_LENGTH]) if length.isdecimal() else 0)
            await self._app(scope, body.receive, noted)
        except _BrokenOffError:
            pass
        finally:
            self._held -= body.size
        if body.refused and not started:
            await refuse_and_close(body.refused, scope, receive, send, more_comes=not body.arrived)

    def refusal(self, size: int, more: int) -> ServerError | None:
        """Why a body cannot have so many more bytes than it has; None: it can."""
        if size + more > self._max_bytes:
            return BodyTooLargeError(f"The request is larger than the limit of {self._max_bytes} bytes.")
        if self._held + more > self._max_held_bytes:
            return OverloadedError("The server holds as many bytes of requests as it takes on.")
        return None

    def hold(self, more: int) -> None:
        """Count bytes that have arrived."""
        self._held += more

    def too_slow(self) -> ServerError:
        """Why a body is not waited for any longer."""
        return BodyTimeoutError(f"The request's body did not arrive within {self._seconds:g} seconds.")

    @property
    def seconds(self) -> float:
        """That a body may take to arrive."""
        return self._seconds


class _Body:
    """One request's body, as it arrives."""

    def __init__(self, limit: BodyLimit, receive: Receive) -> None:
        self.size = 0
        self.refused: ServerError | None = None
        self.arrived = False
        self._limit = limit
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + limit.seconds

    async def receive(self) -> Message:
        """The next piece; after the last one, whatever comes, however late."""
        if self.arrived:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self._refuse(self._limit.too_slow())
        self.arrived = not message.get("more_body", False)
        more = len(message.get("body", b""))
        self.check(more)
        self.size += more
        self._limit.hold(more)
        return message

    def check(self, more: int) -> None:
        """Break off if there is no room for so many more bytes."""
        if refusal := self._limit.refusal(self.size, more):
            self._refuse(refusal)

    def _refuse(self, error: ServerError) -> NoReturn:
        self.refused = error
        raise _BrokenOffError


class _BrokenOffError(Exception):
    """The body is not read any further."""

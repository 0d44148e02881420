"""Limit the size and the duration of request bodies while they arrive."""

import asyncio
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookonce_server.errors import BodyTimeoutError, BodyTooLargeError, OverloadedError, ServerError
from lookonce_server.http.middleware.reject import reject_and_close

_LONGEST_LENGTH = 20  # digits; a number of more is no smaller for its first ones


class BodyLimitMiddleware:
    """Reject bodies that are too large or too slow, with or without a length.

    Args:
        app: the wrapped app.
        max_bytes: largest body let through.
        max_held_bytes: of all bodies of running requests, as far as they have arrived.
        seconds: time that a body may take to arrive.
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

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if body.refused and not started:
                return  # the app's answer to a body that was broken off: ours is below
            started = True
            await send(message)

        try:
            length = Headers(scope=scope).get("content-length", "")
            body.check(int(length[:_LONGEST_LENGTH]) if length.isdecimal() else 0)
            await self._app(scope, body.receive, send_unless_refused)
        except _BrokenOffError:
            pass
        finally:
            self._held -= body.size
        if body.refused and not started:
            await reject_and_close(body.refused, scope, receive, send, more_comes=not body.arrived)

    def refusal(self, size: int, more: int) -> ServerError | None:
        """Return the error of a body that grows by so many bytes; None if it may."""
        if size + more > self._max_bytes:
            return BodyTooLargeError(f"The request is larger than the limit of {self._max_bytes} bytes.")
        if self._held + more > self._max_held_bytes:
            return OverloadedError("The server holds as many bytes of requests as it accepts. Ask again in a moment.")
        return None

    def hold(self, more: int) -> None:
        """Count bytes that have arrived."""
        self._held += more

    def too_slow(self) -> ServerError:
        """Return the error of a body that takes too long."""
        return BodyTimeoutError(f"The request's body did not arrive within {self._seconds:g} seconds.")

    @property
    def seconds(self) -> float:
        """Return the time that a body may take to arrive."""
        return self._seconds


class _Body:
    """The body of one request, as it arrives."""

    def __init__(self, limit: BodyLimitMiddleware, receive: Receive) -> None:
        self.size = 0
        self.refused: ServerError | None = None
        self.arrived = False
        self._limit = limit
        self._receive = receive
        self._deadline = asyncio.get_running_loop().time() + limit.seconds

    async def receive(self) -> Message:
        """Return the next message; after the body's last one there is no deadline."""
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
        """Break off if the body may not grow by so many bytes."""
        if refusal := self._limit.refusal(self.size, more):
            self._refuse(refusal)

    def _refuse(self, error: ServerError) -> NoReturn:
        self.refused = error
        raise _BrokenOffError


class _BrokenOffError(Exception):
    """The body is not read any further."""

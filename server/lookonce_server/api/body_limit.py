"""A limit on request bodies, held while they arrive: no request fills the memory."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware that answers 413 to larger bodies, whether or not they tell their length.

    Args:
        app: what it wraps.
        max_bytes: largest body let through.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0
        started = refused = False

        async def counted() -> Message:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                refused = True
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            if refused and not started:
                return  # what the app makes of a body that breaks off: the answer is below
            started = True
            await send(message)

        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > self._max_bytes:
                refused = True
            else:
                await self._app(scope, counted, noted)
        except _TooLargeError:
            refused = True
        if refused and not started:
            message = f"The request is larger than the limit of {self._max_bytes} bytes."
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": "request_too_large"}
            await JSONResponse({"error": error}, 413, {"connection": "close"})(scope, receive, send)


class _TooLargeError(Exception):
    """The body is over the limit."""

"""Reject requests before their bodies are read."""

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from lookonce_server.errors import ServerError
from lookonce_server.http.errors import response_to

_LINGER_SECONDS = 2


async def reject(error: ServerError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error; the rest of the body is discarded as it arrives."""
    await response_to(error)(scope, receive, send)


async def reject_and_close(error: ServerError, scope: Scope, receive: Receive, send: Send, *, more_comes: bool) -> None:
    """Answer with an error and close the connection.

    A connection that is closed with unread bytes is reset, and the answer may be lost. So if more of the body comes,
    the whole answer is sent first, and the rest is discarded, for a few seconds at most.
    """

    async def send_and_drain(message: Message) -> None:
        if more_comes and message["type"] == "http.response.body":
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    while (await receive()).get("more_body"):
                        pass
            message = {"type": "http.response.body"}
        await send(message)

    response = response_to(error)
    response.headers["connection"] = "close"
    await response(scope, receive, send_and_drain)

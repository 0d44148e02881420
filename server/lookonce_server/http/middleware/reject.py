"""Answers to requests that come no further, before their bodies are read."""

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive, Scope, Send

from lookonce_server.errors import ServerError
from lookonce_server.http.errors import response_to

_LINGER_SECONDS = 2


async def refuse(error: ServerError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error; what the client still sends of its body is thrown away as it comes."""
    await response_to(error)(scope, receive, send)


async def refuse_and_close(error: ServerError, scope: Scope, receive: Receive, send: Send, *, more_comes: bool) -> None:
    """Answer with an error, and end the connection, for a client that would send too much, or too slowly.

    A connection closed on bytes that were not read is reset, and the answer may be lost with it. So where more of the
    body comes the whole answer is sent first, and the rest is thrown away, for a few seconds at most.
    """

    async def lingering(message: Message) -> None:
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
    await response(scope, receive, lingering)

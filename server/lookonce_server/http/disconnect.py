"""Work for clients that may leave, and answers that are sent as they are made."""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from lookonce_server.errors import ServerError
from lookonce_server.http.errors import body_of, status_of
from lookonce_server.logs import current_request

DONE = "data: [DONE]\n\n"
COMMENT = b": waiting\n\n"
_log = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """The client closed the connection."""


async def unless_disconnected(request: Request, work: Any) -> Any:
    """Await `work`, and cancel it when the client goes away meanwhile: nobody wants its result.

    Raises:
        ClientGoneError: the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for pending in (task, gone):
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await pending


class EventStream(StreamingResponse):
    """Server-sent events. However it ends, begun or not, `ended` is called once, with the status to count it under.

    That is "200", "499" where the client left before the last event, or an error's own: such an error cannot change
    the status line any more, and is sent as an event.

    Args:
        events: what is sent.
        ended: lets go of what stands behind the events.
        error_event: an error's body, in OpenAI's shape, as an event.
        headers: of the response.
        silence: seconds without anything sent after which a comment is, which clients pass over, and proxies do not.
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        ended: Callable[[str], Awaitable[None]],
        *,
        error_event: Callable[[dict[str, Any]], str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float = math.inf,
    ) -> None:
        self._ended = ended
        self._silence = silence
        self._error_event = error_event or event
        self._outcome = "499"  # until the last event is sent
        super().__init__(self._guarded(events), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        sending = _Sending(send, self._silence)
        try:
            async with sending.commenting():
                await super().__call__(scope, receive, sending)
        finally:
            if facts := current_request.get():
                facts.status = int(self._outcome)
            await self._ended(self._outcome)

    async def _guarded(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for one in events:
                yield one
            self._outcome = "200"
        except Exception as error:
            self._outcome = str(status_of(error))
            if not isinstance(error, ServerError):
                _log.exception("a stream failed")
            body = body_of(error)
            if facts := current_request.get():
                facts.error = body["error"]["code"]
            yield self._error_event(body)


class _Sending:
    """Sends a stream's messages, and a comment where there are none for a while."""

    def __init__(self, send: Send, silence: float) -> None:
        self._send = send
        self._silence = silence
        self._turn = asyncio.Lock()
        self._open = False  # from the first message to the last
        self._last = time.monotonic()

    async def __call__(self, message: Message) -> None:
        async with self._turn:
            self._open = message["type"] == "http.response.start" or message.get("more_body", False)
            await self._send(message)
            self._last = time.monotonic()

    @contextlib.asynccontextmanager
    async def commenting(self) -> AsyncIterator[None]:
        """Comments are sent within the block."""
        if not math.isfinite(self._silence):
            yield
            return
        task = asyncio.create_task(self._comment())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _comment(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._last + self._silence - time.monotonic()))
            async with self._turn:
                is_silent = time.monotonic() - self._last >= self._silence
                if is_silent and self._open:
                    await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                if is_silent:
                    self._last = time.monotonic()


def event(data: dict[str, Any]) -> str:
    """An event without a name."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""Send answers as they are generated, as server-sent events."""

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from lookonce_server.errors import ServerError
from lookonce_server.http.errors import body_of, status_of
from lookonce_server.logs import current_request

DONE = "data: [DONE]\n\n"
COMMENT = b": waiting\n\n"
_log = logging.getLogger(__name__)


def event(text: str, name: str | None = None) -> str:
    """Format an event.

    Args:
        text: its data, a JSON text.
        name: of the event, in an API whose events have names.
    """
    return f"event: {name}\ndata: {text}\n\n" if name else f"data: {text}\n\n"


def error_event(error: dict[str, Any]) -> str:
    """Format an error's body, in OpenAI's shape, as an event without a name."""
    return event(json.dumps(error, ensure_ascii=False))


class EventStream(StreamingResponse):
    """Send server-sent events.

    `on_end` is called once, however the stream ends, with the status to count it under.

    The status is "200", "499" where the client left before the last event, or the error's own. Such an error cannot
    change the status line any more, and is sent as an event.

    Args:
        events: the events to send.
        on_end: releases the resources behind the events.
        error_event: formats an error's body, in OpenAI's shape, as an event.
        headers: headers of the response.
        silence: seconds without an event after which a comment is sent. Clients ignore it; proxies keep the connection.
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        on_end: Callable[[str], Awaitable[None]],
        *,
        error_event: Callable[[dict[str, Any]], str] = error_event,
        headers: Mapping[str, str] | None = None,
        silence: float = math.inf,
    ) -> None:
        self._on_end = on_end
        self._silence = silence
        self._error_event = error_event
        self._outcome = "499"  # until the last event is sent
        super().__init__(self._with_error(events), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers and all events."""
        keepalive = _KeepAlive(send, self._silence)
        try:
            async with keepalive.comments():
                await super().__call__(scope, receive, keepalive)
        finally:
            if facts := current_request.get():
                facts.status = int(self._outcome)
            await self._on_end(self._outcome)

    async def _with_error(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for text in events:
                yield text
            self._outcome = "200"
        except Exception as error:
            self._outcome = str(status_of(error))
            if not isinstance(error, ServerError):
                _log.exception("a stream failed")
            body = body_of(error)
            if facts := current_request.get():
                facts.error = body["error"]["code"]
            yield self._error_event(body)


class _KeepAlive:
    """Send a stream's messages, and comments while there are none."""

    def __init__(self, send: Send, silence: float) -> None:
        self._send = send
        self._silence = silence
        self._lock = asyncio.Lock()
        self._is_open = False  # from the first message to the last
        self._sent_at = time.monotonic()

    async def __call__(self, message: Message) -> None:
        async with self._lock:
            self._is_open = message["type"] == "http.response.start" or message.get("more_body", False)
            await self._send(message)
            self._sent_at = time.monotonic()

    @contextlib.asynccontextmanager
    async def comments(self) -> AsyncIterator[None]:
        """Send comments within the block."""
        if not math.isfinite(self._silence):
            yield
            return
        task = asyncio.create_task(self._send_comments())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _send_comments(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._sent_at + self._silence - time.monotonic()))
            async with self._lock:
                is_silent = time.monotonic() - self._sent_at >= self._silence
                if is_silent and self._is_open:
                    await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                if is_silent:
                    self._sent_at = time.monotonic()

"""Work for clients that may leave, and answers that are sent as they are made."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lookonce_server.api.errors import body_of, status_of
from lookonce_server.errors import ServerError
from lookonce_server.logs import current_request

DONE = "data: [DONE]\n\n"
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
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        ended: Callable[[str], Awaitable[None]],
        *,
        error_event: Callable[[dict[str, Any]], str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._ended = ended
        self._error_event = error_event or event
        self._outcome = "499"  # until the last event is sent
        super().__init__(self._guarded(events), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            await super().__call__(scope, receive, send)
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


def event(data: dict[str, Any]) -> str:
    """An event without a name."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

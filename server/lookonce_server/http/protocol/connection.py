"""Limit the time and memory of a client's connection."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from lookonce_server.errors import (
    HeadersTimeoutError,
    InvalidHttpError,
    ServerError,
    TooManyConnectionsError,
)
from lookonce_server.http.errors import body_of, status_of
from lookonce_server.http.protocol.request_parser import RequestParser
from lookonce_server.metrics import Metrics

_log = logging.getLogger(__name__)
_LINGER_SECONDS = 2
_MIN_READ = 16 * 1024  # bytes that a client has to read of what is sent it, in `send_seconds`
_MAX_PIPELINED = 16  # requests that may wait on one connection behind the one that is answered
_LOG_SECONDS = 10


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a connection.

    Attributes:
        max_connections: at once, of everybody.
        max_head_bytes: of a request, beside its body.
        head_seconds: that a request's head may take to arrive.
        body_seconds: that the rest of a body may take to arrive after its request was answered.
        send_seconds: in which a client reads what is sent it, or 16 KiB of it.
    """

    max_connections: int
    max_head_bytes: int
    head_seconds: float
    body_seconds: float
    send_seconds: float


class RefusalLog:
    """Count rejected connections and requests, and log them together.

    Args:
        metrics: where they are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._unlogged: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    def __call__(self, reason: str) -> None:
        """Count one rejection.

        Args:
            reason: an error's code.
        """
        self._metrics.refused.labels(reason).inc()
        self._unlogged[reason] = self._unlogged.get(reason, 0) + 1
        now = time.monotonic()
        if now - self._logged_at.get(reason, -_LOG_SECONDS) >= _LOG_SECONDS:
            _log.warning("refused: %s, on %d connection(s) since the last line", reason, self._unlogged.pop(reason))
            self._logged_at[reason] = now


class ConnectionConfig(uvicorn.Config):
    """The configuration of uvicorn and of its connections.

    Args:
        app: the served app.
        limits: of each connection.
        refusals: logs and counts rejections.
        options: uvicorn's.
    """

    def __init__(self, app: Any, *, limits: ConnectionLimits, refusals: RefusalLog, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.limits = limits
        self.refusals = refusals


class Connection(HttpToolsProtocol):
    """One client's connection; it ends in time, whatever the client does."""

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = config.limits
        self._refusals = config.refusals
        self._refused = False
        self._arriving: asyncio.TimerHandle | None = None  # while something is to arrive, and nothing else waits for it
        self._sending: asyncio.TimerHandle | None = None  # while a client does not read
        self._unsent = 0
        self._requests = RequestParser(self, config.limits.max_head_bytes, self._refuse)
        self.parser = self._requests  # type: ignore[assignment]  # it has all that uvicorn asks of a parser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of every byte that is not taken
        if len(self.connections) > self._limits.max_connections:
            self._refuse(TooManyConnectionsError())
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._arrived()
        self._sent()
        self._requests.close()

    # --- receiving ---

    def data_received(self, data: bytes) -> None:
        """See asyncio; after a refusal nothing is read any more, but thrown away."""
        if self._refused:
            return
        super().data_received(data)
        if not self._is_answering and not self._arriving and not self._refused:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """See httptools."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise InvalidHttpError
        super().on_headers_complete()
        self._arrived()

    def on_message_complete(self) -> None:
        """See httptools; a request that was answered before it was complete leaves the connection idle."""
        super().on_message_complete()
        if not self._is_answering:
            self._wait(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """See uvicorn, which waits for another request then; here also for the rest of one that was answered early."""
        super().on_response_complete()
        if self._is_answering or self.transport.is_closing():
            return
        if self._requests.in_body:
            self._wait(self._limits.body_seconds)
        elif self._requests.begun:
            self._wait_for_head()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._wait(self._limits.head_seconds)

    def _wait(self, seconds: float) -> None:
        self._arrived()
        self._arriving = self.loop.call_later(seconds, self._end_waiting)

    def _arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _end_waiting(self) -> None:
        self._arriving = None
        if self._requests.begun and not self._refused:
            seconds = self._limits.head_seconds
            self._refuse(HeadersTimeoutError(f"The request's headers did not arrive within {seconds:g} seconds."))
        else:
            self.transport.close()

    # --- sending ---

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self._sent()

    def _wait_for_client(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._sending = self.loop.call_later(self._limits.send_seconds, self._check_client)

    def _check_client(self) -> None:
        if self._unsent - self.transport.get_write_buffer_size() >= _MIN_READ:
            self._wait_for_client()
            return
        self._refusals("send_timeout")
        self.transport.abort()

    def _sent(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    # --- refusals ---

    def _refuse(self, error: ServerError) -> None:
        """Answer with an error and close the connection, after pending answers.

        A connection that is closed with unread bytes is reset, and the answer may be lost. So the rest is discarded for
        a moment.
        """
        self._refused = True
        body = body_of(error)
        self._refusals(body["error"]["code"])
        self._arrived()
        if not self._is_answering:
            self._answer(status_of(error), body)
        elif not self._requests.in_body:
            self.cycle.keep_alive = False
        elif self.cycle.response_started or self.pipeline:
            self.transport.abort()  # it is too late for an answer
        else:
            self.cycle.disconnected = True  # for the app, which waits for the rest of the body
            self.cycle.message_event.set()
            self._answer(status_of(error), body)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        lines = [b"content-type: application/json", b"content-length: %d" % len(content), b"connection: close"]
        lines += [b"x-content-type-options: nosniff", b"cache-control: no-store"]
        if status == 503:
            lines.append(b"retry-after: 1")
        lines += [b"%s: %s" % field for field in self.server_state.default_headers]
        self.transport.write(STATUS_LINE[status] + b"\r\n".join([*lines, b"", content]))
        self.transport.write_eof()
        self._wait(_LINGER_SECONDS)

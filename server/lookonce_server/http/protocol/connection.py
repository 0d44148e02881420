"""Limit the time and the memory of a client's connection to uvicorn."""

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
_LEAST_READ = 16 * 1024  # bytes that a client has to read of what is sent it, in `send_seconds`
_MOST_PIPELINED = 16  # requests that may wait on one connection behind the one that is answered
_LOG_SECONDS = 10


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bound what a client may take of a connection.

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
    """Count what is refused before it is a request, and log a line for many of them.

    Args:
        metrics: where they are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._unlogged: dict[str, int] = {}
        self._logged_at: dict[str, float] = {}

    def __call__(self, reason: str) -> None:
        """Count one.

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
    """Add the limits of connections to uvicorn's configuration.

    Args:
        app: what is served.
        limits: of each connection.
        refusals: counts what is refused.
        options: uvicorn's.
    """

    def __init__(self, app: Any, *, limits: ConnectionLimits, refusals: RefusalLog, **options: Any) -> None:
        super().__init__(app, http=Connection, **options)
        self.limits = limits
        self.refusals = refusals


class Connection(HttpToolsProtocol):
    """Serve one client, and end in time, whatever the client leaves undone."""

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
        self._parser = RequestParser(self, config.limits.max_head_bytes, self._refuse)
        self.parser = self._parser  # type: ignore[assignment]  # it has all that uvicorn asks of a parser

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
        self._parser.close()

    # --- what arrives ---

    def data_received(self, data: bytes) -> None:
        """See asyncio; after a refusal nothing is read any more, but thrown away."""
        if self._refused:
            return
        super().data_received(data)
        if not self._is_answering and not self._arriving and not self._refused:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """See httptools."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise InvalidHttpError
        super().on_headers_complete()
        self._arrived()

    def on_message_complete(self) -> None:
        """See httptools; a request answered early leaves the connection idle."""
        super().on_message_complete()
        if not self._is_answering:
            self._wait(self.timeout_keep_alive)

    def on_response_complete(self) -> None:
        """See uvicorn; waits here also for the rest of a request answered early."""
        super().on_response_complete()
        if self._is_answering or self.transport.is_closing():
            return
        if self._parser.in_body:
            self._wait(self._limits.body_seconds)
        elif self._parser.in_head:
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
        if self._parser.in_head and not self._refused:
            seconds = self._limits.head_seconds
            self._refuse(HeadersTimeoutError(f"The request's headers did not arrive within {seconds:g} seconds."))
        else:
            self.transport.close()

    # --- what is sent ---

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
        if self._unsent - self.transport.get_write_buffer_size() >= _LEAST_READ:
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
        """Answer with an error and end the connection, after pending answers.

        A connection that is closed on bytes that were not read is reset, and the answer may be lost with it. So what
        still comes is thrown away for a moment.
        """
        self._refused = True
        body = body_of(error)
        self._refusals(body["error"]["code"])
        self._arrived()
        if not self._is_answering:
            self._answer(status_of(error), body)
        elif not self._parser.in_body:
            self.cycle.keep_alive = False
        elif self.cycle.response_started or self.pipeline:
            self.transport.abort()  # nothing can be told any more
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

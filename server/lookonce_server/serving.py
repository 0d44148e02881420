"""Running the app under uvicorn, and how it ends."""

import asyncio
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from lookonce_server.connection import ConnectionConfig, ConnectionLimits, RefusalLog
from lookonce_server.errors import ShuttingDownError, StartError
from lookonce_server.listener import bind, listen
from lookonce_server.settings import Settings

_POLL_SECONDS = 0.05


class Background(Protocol):
    """Work that no request waits for."""

    def end(self) -> None:
        """Begin nothing more, and drop what has hardly begun."""

    @property
    def is_busy(self) -> bool:
        """Whether there is work under way, which is worth waiting for."""


@dataclass(slots=True)
class Phase:
    """Where the server is in its life: at work, or ending.

    Attributes:
        background: what may go on behind requests.
        failure: why it ends, where that is no wish of whoever runs it.
    """

    background: Background | None = None
    ending: bool = False
    failure: str | None = None

    def end(self) -> None:
        """Take nothing more on; what was begun goes on."""
        self.ending = True
        if self.background is not None:
            self.background.end()

    @property
    def is_busy(self) -> bool:
        """Whether work goes on behind requests."""
        return self.background is not None and self.background.is_busy

    def check(self) -> None:
        """Return if new requests are taken on.

        Raises:
            ShuttingDownError: none are.
        """
        if self.failure:
            raise ShuttingDownError(self.failure)
        if self.ending:
            raise ShuttingDownError("The server is shutting down; ask another one, or again in a moment.")


class Server(uvicorn.Server):
    """uvicorn, with a word once it listens, and an end that finishes what was begun.

    Told to stop, it still listens while requests are under way, and tells new ones, and whoever asks `/ready`, that it
    ends: so a balancer sees it, and nobody meets a closed port that still answers others.

    Args:
        app: what is served.
        settings: where, and what a connection may take.
        refusals: is told what is refused of connections.
        phase: is told when the end begins.
        greet: is called with the URL once it listens.
    """

    failure_seconds = 5.0  # for requests to hear that the engine has ended

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        refusals: RefusalLog,
        phase: Phase,
        greet: Callable[[str], None],
    ) -> None:
        super().__init__(
            ConnectionConfig(
                app,
                limits=_limits(settings),
                refusals=refusals,
                host=settings.host,
                port=settings.port,
                backlog=settings.backlog,
                timeout_keep_alive=settings.keep_alive_timeout,
                proxy_headers=bool(settings.forwarded_allow_ips),
                forwarded_allow_ips=list(settings.forwarded_allow_ips),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
            )
        )
        self._settings = settings
        self._refusals = refusals
        self._phase = phase
        self._shutdown_seconds = settings.shutdown_seconds
        self._greet = greet

    def stop(self) -> None:
        """Begin to end; may be called by a signal."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """See uvicorn: it captures none, they are seen to from the first line on."""
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.

        Args:
            sockets: that are bound, and do not listen yet.

        Raises:
            StartError: another process listens there by now.
        """
        settings = self._settings
        try:
            listeners = listen(
                sockets or bind(settings.host, settings.port),
                backlog=settings.backlog,
                max_connections=settings.max_connections,
                refused=self._refusals,
            )
        except OSError as error:
            raise StartError(f"--port {settings.port}: another process has taken it meanwhile ({error}).") from error
        await super().serve(list(listeners))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._greet(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn. Waits for requests, and for work behind them that was begun."""
        self._phase.end()
        seconds = self._shutdown_seconds
        deadline = time.monotonic() + (min(seconds, self.failure_seconds) if self._phase.failure else seconds)
        while self._is_busy() and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        left = max(0.0, deadline - time.monotonic())
        self.config.timeout_graceful_shutdown = left  # type: ignore[assignment]  # a float is as good
        await super().shutdown(sockets)

    def _is_busy(self) -> bool:
        return bool(self.server_state.tasks) or self._phase.is_busy


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        max_connections=settings.max_connections,
        max_head_bytes=settings.max_header_bytes,
        head_seconds=settings.header_timeout,
        body_seconds=settings.body_timeout,
        send_seconds=settings.send_timeout,
    )

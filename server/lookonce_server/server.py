"""The uvicorn server: how it listens, and how it ends."""

import asyncio
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from lookonce_server.errors import StartError
from lookonce_server.http.protocol.connection import ConnectionConfig, ConnectionLimits, RefusalLog
from lookonce_server.http.protocol.listener import bind, listen
from lookonce_server.lifecycle import Lifecycle
from lookonce_server.settings import Settings

_POLL_SECONDS = 0.05


class Server(uvicorn.Server):
    """Run the app under uvicorn, and finish what was begun before it ends.

    Told to stop, it still listens while requests are under way, and tells new ones, and whoever asks `/ready`, that it
    ends: so a balancer sees it, and nobody meets a closed port that still answers others.

    Args:
        app: what is served.
        settings: where, and what a connection may take.
        refusals: counts connections that are refused.
        lifecycle: is ended when the server is told to stop.
        on_listening: is called with the URL once it listens.
    """

    failure_seconds = 5.0  # for requests to hear that the engine has ended

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        *,
        refusals: RefusalLog,
        lifecycle: Lifecycle,
        on_listening: Callable[[str], None],
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
        self._lifecycle = lifecycle
        self._shutdown_seconds = settings.shutdown_seconds
        self._on_listening = on_listening

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
            self._on_listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn. Waits for requests, and for work behind them that was begun."""
        self._lifecycle.end()
        seconds = self._shutdown_seconds
        deadline = time.monotonic() + (min(seconds, self.failure_seconds) if self._lifecycle.failure else seconds)
        while self._is_busy() and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        left = max(0.0, deadline - time.monotonic())
        self.config.timeout_graceful_shutdown = left  # type: ignore[assignment]  # a float is as good
        await super().shutdown(sockets)

    def _is_busy(self) -> bool:
        return bool(self.server_state.tasks) or self._lifecycle.is_busy


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        max_connections=settings.max_connections,
        max_head_bytes=settings.max_header_bytes,
        head_seconds=settings.header_timeout,
        body_seconds=settings.body_timeout,
        send_seconds=settings.send_timeout,
    )

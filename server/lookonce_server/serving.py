"""Running the app under uvicorn, and how it ends."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from lookonce_server.errors import ShuttingDownError

_POLL_SECONDS = 0.05


@dataclass(slots=True)
class Phase:
    """Where the server is in its life: at work, or ending."""

    ending: bool = False

    def check(self) -> None:
        """Return if new requests are taken on.

        Raises:
            ShuttingDownError: none are.
        """
        if self.ending:
            raise ShuttingDownError("The server is shutting down; ask another one, or again in a moment.")


class Server(uvicorn.Server):
    """uvicorn, with a word once it listens, and an end that finishes what was begun.

    Told to stop, it still listens while requests are under way, and tells new ones, and whoever asks `/ready`, that it
    ends: so a balancer sees it, and nobody meets a closed port that still answers others.

    Args:
        app: what is served.
        host: address to listen on.
        port: 0 takes a free one.
        phase: is told when the end begins.
        shutdown_seconds: that what is under way may take then.
        greet: is called with the URL once it listens.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        phase: Phase,
        shutdown_seconds: float,
        greet: Callable[[str], None],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )
        self._phase = phase
        self._shutdown_seconds = shutdown_seconds
        self._greet = greet

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._greet(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; a second SIGINT ends it at once."""
        self._phase.ending = True
        deadline = time.monotonic() + self._shutdown_seconds
        while self.server_state.tasks and not self.force_exit and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        left = max(0.0, deadline - time.monotonic())
        self.config.timeout_graceful_shutdown = left  # type: ignore[assignment]  # a float is as good
        await super().shutdown(sockets)

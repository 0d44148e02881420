"""A bad network between a client and a server on this machine, and TLS."""

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

CHUNK = 16 * 1024


class Certificate(NamedTuple):
    """A self-signed certificate for 127.0.0.1, which is its own authority."""

    path: Path
    key: Path


def make_certificate(folder: Path, name: str) -> Certificate:
    """Made by the openssl command, valid for two days."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    out = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made.path), "-keyout", str(made.key)]
    subprocess.run([*command.split(), *out], check=True, capture_output=True)
    return made


class Network:
    """Forwards TCP connections to a port of 127.0.0.1 while its `with` block runs, as badly as its attributes say.

    The attributes may be set at any time, also for connections that are open.

    Args:
        target: the server's port.
        certificate: what to end TLS with; None for plain TCP.

    Attributes:
        port: where it listens, on 127.0.0.1.
        bytes_per_second: of replies, on each connection; None for no limit.
        latency: seconds that each piece of a reply comes late.
        is_black_hole: nothing arrives any more, in either direction, and no connection is closed.
        cuts: how many connections are still to be cut midway; see `cut_midway`.
        connections: how many were made so far.
    """

    def __init__(self, target: int, *, certificate: Certificate | None = None) -> None:
        self.bytes_per_second: int | None = None
        self.latency = 0.0
        self.is_black_hole = False
        self.cuts = 0
        self._cut_after = self._until_cut = 0
        self.connections = 0
        self._target = target
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._tls and certificate:
            self._tls.load_cert_chain(certificate.path, certificate.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")
        self._forwarding: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._forward, "127.0.0.1", 0, ssl=self._tls))
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Cuts every open connection."""
        self._run(self._cut())

    def cut_midway(self, after: int, cuts: int = 1) -> None:
        """Cuts a connection once this many bytes of replies have come to the client, on whatever connections.

        Args:
            after: how many bytes still get through.
            cuts: how often, each time after so many bytes more.
        """
        self._cut_after = self._until_cut = after
        self.cuts = cuts

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=20)

    async def _end(self) -> None:
        # A connection may be accepted and not yet forwarded, and asyncio loses the socket where its server closes then.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut()
            await asyncio.wait(others, timeout=0.02)
        self._server.close()

    async def _cut(self) -> None:
        tasks = list(self._forwarding)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._forwarding.add(task)
        writers, ways = [to_client], []
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(to_server)
            ways = [asyncio.ensure_future(way) for way in (self._up(client, to_server), self._down(server, to_client))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, or the connection is cut
        finally:
            for writer in writers:  # nothing is awaited here: a second cut would end it midway
                writer.transport.abort()
            for way in ways:
                way.cancel()
            self._forwarding.discard(task)

    async def _up(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await client.read(CHUNK):
            await self._light()
            to_server.write(data)
            await to_server.drain()

    async def _down(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(CHUNK):
            await asyncio.sleep(self.latency + (len(data) / self.bytes_per_second if self.bytes_per_second else 0))
            await self._light()
            if self.cuts:
                self._until_cut -= len(data)
                if self._until_cut < 0:
                    to_client.write(data[: self._until_cut])
                    self._until_cut = self._cut_after
                    self.cuts -= 1
                    return
            to_client.write(data)
            await to_client.drain()

    async def _light(self) -> None:
        """Returns when the network is no black hole."""
        while self.is_black_hole:  # noqa: ASYNC110  # set from another thread
            await asyncio.sleep(0.02)

"""A web server that answers every request with what a test says, byte by byte, and remembers what it was asked."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Web:
    """Answers by path; a function writes its answer itself."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)  # the heads of the requests
    names: list[str | None] = field(default_factory=list)  # that TLS was asked for
    connections: int = 0
    port: int = 0
    _talking: set[asyncio.Task] = field(default_factory=set)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        talking = asyncio.current_task()
        assert talking
        self._talking.add(talking)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone, or the test at its end
        finally:
            self._talking.discard(talking)
            writer.close()

    async def end(self) -> None:
        """Ends the answers that would go on."""
        talking = list(self._talking)
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        answer = self.answers[head.split()[1].decode()]
        if callable(answer):
            await answer(writer)
        else:
            writer.write(answer)
            await writer.drain()


@asynccontextmanager
async def serving(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    """The server, while the block runs."""
    web = Web()
    if tls:
        tls.sni_callback = lambda _, name, __: web.names.append(name)
    server = await asyncio.start_server(web.talk, host, 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()
        await web.end()


def response(body: bytes = b"", *headers: str, status: str = "200 OK", kind: str | None = "image/png") -> bytes:
    """An answer with a true length unless the headers give one."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if kind:
        lines.append(f"content-type: {kind}")
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    """To another place."""
    return response(b"", f"location: {to}", status=status, kind=None)

"""HTTP by hand: a socket that sends exactly what a test writes, and reads answers one by one."""

import json
import socket
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

PATIENCE = 60.0  # seconds; only a failure waits that long


class Answer(NamedTuple):
    """A response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The error's, which has OpenAI's shape."""
        error = self.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
        return error["code"]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class RawConnection:
    """A connection to a server.

    Args:
        url: of the server.
        receive_buffer: bytes that the kernel keeps for us unread; None: as many as it likes.
    """

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        place = urlsplit(url)
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((place.hostname, place.port))
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def send_until_refused(self, piece: bytes, most: int) -> int:
        """Send a piece over and over, at most so many bytes, until the other side closes; how many bytes went out."""
        sent = 0
        try:
            while sent < most:
                sent += self.socket.send(piece)
        except OSError:  # reset by the server
            pass
        return sent

    def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer, but for those of 100."""
        status, headers = self._head()
        while status == 100:
            status, headers = self._head()
        return Answer(status, headers, b"" if to_head or status in (204, 304) else self._body(headers))

    def status_line(self) -> str:
        return self._reader.readline().decode().rstrip()

    def is_closed(self) -> bool:
        """Whether the server ends the connection and sends nothing before; waits for it."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True

    def _head(self) -> tuple[int, dict[str, str]]:
        line = self._reader.readline()
        assert line, "the connection was closed without an answer"
        headers = {}
        while field := self._reader.readline().rstrip(b"\r\n"):
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self._reader.read(int(headers["content-length"]))
        pieces = []
        while size := int(self._reader.readline(), 16):
            pieces.append(self._reader.read(size))
            self._reader.readline()
        self._reader.readline()
        return b"".join(pieces)


def head(method: str, target: str, *fields: str, host: str = "localhost", version: str = "1.1") -> bytes:
    """A request's head, its empty line included."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", f"host: {host}", *fields, "", ""]).encode("latin-1")


def post(target: str, body: bytes, *fields: str) -> bytes:
    """A whole request with a JSON body."""
    named = ("content-type: application/json", f"content-length: {len(body)}")
    return head("POST", target, *named, *fields) + body


def chunked(target: str, body: bytes, *fields: str, size: int = 64) -> bytes:
    """A whole request whose JSON body comes in chunks."""
    named = ("content-type: application/json", "transfer-encoding: chunked")
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head("POST", target, *named, *fields) + framed + b"0\r\n\r\n"


def chat(**options: Any) -> bytes:
    """The body of a question without an image."""
    message = {"role": "user", "content": "How many objects are there?"}
    return json.dumps({"model": "lookonce-scenes", "messages": [message], "max_tokens": 4, **options}).encode()

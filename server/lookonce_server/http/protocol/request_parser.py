"""Parse requests with httptools, within bounds, without upgrades and trailers."""

from collections.abc import Callable

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookonce_server.errors import HeadersTooLargeError, InvalidHttpError, ServerError

_PIECE = 16 * 1024  # what is fed at once: by so much, and no more, the bound may be overstepped before it is noticed
_FIELD_OVERHEAD = 32  # bytes that a header costs beside its name and value, as HTTP/2 counts them
_FREE_PER_CHUNK = 16  # bytes of a chunk's framing that are not counted, since any client needs some
_VERSIONS = ("1.0", "1.1")
_OFFER = (b"upgrade", b"http2-settings")  # headers, and values of Connection, that offer another protocol


class RequestParser:
    """Parse requests, and refuse those whose bytes beside the body are too many.

    Counted are the request line, headers, chunk framing and trailers, as they arrive. An offer to change the protocol
    (`Upgrade: h2c`, `websocket`) is ignored, as a server may: httptools would stop at it, and lose the body.

    Args:
        events: gets what was parsed.
        max_head_bytes: maximum bytes of a request beside its body.
        refuse: is called once with the error; nothing is parsed after that.
    """

    def __init__(self, events: HttpToolsProtocol, max_head_bytes: int, refuse: Callable[[ServerError], None]) -> None:
        self.in_head = False  # a head has begun to arrive, and is not complete
        self.in_body = False  # a head is complete, and its message is not
        self._events = events
        self._limit = max_head_bytes
        self._refuse = refuse
        self._ended = False
        self._upgrades = False
        self._fields = 0  # bytes of what is parsed: target and headers
        self._arrived = 0  # bytes that are no body, parsed or not
        self._parser = self._new_parser()

    def feed_data(self, data: bytes) -> None:
        """Parse what has arrived."""
        for start in range(0, len(data), _PIECE):
            if self._ended:
                return
            self._feed(data[start : start + _PIECE])

    def close(self) -> None:
        """Release the connection and the parser, which hold each other."""
        self._ended = True
        del self._events, self._parser

    def _feed(self, data: bytes) -> None:
        self._arrived += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._go_on_without_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._end(self._too_large() if self._fields > self._limit else InvalidHttpError())
        else:
            if self._arrived > self._limit:
                self._end(self._too_large())

    def _end(self, error: ServerError) -> None:
        self._ended = True
        self._refuse(error)

    def _too_large(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(
            f"The request's line, headers and trailers are larger than the limit of {self._limit} bytes."
        )

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Parse the same head without the offer, and then what follows it."""
        version = self._parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self._parser.get_method(), self._events.url, version)]
        lines += [b"%s: %s" % field for field in _without_offer(self._events.headers)]
        self._parser = self._new_parser()
        self._upgrades = False
        self._fields = self._arrived = 0
        for piece in (b"\r\n".join([*lines, b"", b""]), rest):
            if not self._ended:
                self._feed(piece)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        return parser

    # --- called by uvicorn ---

    def get_http_version(self) -> str:
        """See httptools."""
        return self._parser.get_http_version()

    def get_method(self) -> bytes:
        """See httptools."""
        return self._parser.get_method()

    def should_keep_alive(self) -> bool:
        """See httptools."""
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Never."""
        return False

    # --- called by httptools ---

    def on_message_begin(self) -> None:
        """Begin a request line."""
        self.in_head = True
        self._events.on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Add a piece of the target."""
        self._count(len(url))
        self._events.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; a trailer, which follows a body, is dropped."""
        self._count(len(name) + len(value) + _FIELD_OVERHEAD)
        if not self.in_body:
            self._events.on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the complete head."""
        self._check_head()
        self._upgrades = self._parser.should_upgrade()
        if self._upgrades:
            return
        self._events.on_headers_complete()
        self.in_head, self.in_body = False, True

    def on_chunk_header(self) -> None:
        """Begin a chunk."""
        self._arrived = max(0, self._arrived - _FREE_PER_CHUNK)

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        self._arrived = max(0, self._arrived - len(body))
        self._events.on_body(body)

    def on_message_complete(self) -> None:
        """Complete the request."""
        if self._upgrades:
            return
        self.in_body = False
        self._fields = self._arrived = 0
        self._events.on_message_complete()

    def _check_head(self) -> None:
        """Refuse heads that another parser may read otherwise than httptools."""
        hosts = [value for name, value in self._events.headers if name == b"host"]
        _, absolute, rest = self._events.url.partition(b"://")
        other_host = absolute and [rest.partition(b"/")[0]] != hosts
        wrong = self._parser.get_method() == b"CONNECT" or self._parser.get_http_version() not in _VERSIONS
        if wrong or len(hosts) > 1 or (other_host and not self._events.url.startswith(b"/")):
            raise httptools.HttpParserError("not for this server")

    def _count(self, size: int) -> None:
        self._fields += size
        if self._fields > self._limit:
            raise httptools.HttpParserError("too large")


def _without_offer(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return headers without those that offer another protocol."""
    kept = []
    for name, value in headers:
        if name == b"connection":
            options = map(bytes.strip, value.split(b","))
            value = b", ".join(option for option in options if option.lower() not in _OFFER)
        if name not in _OFFER and (value or name != b"connection"):
            kept.append((name, value))
    return kept

"""A server that speaks lookonce's protocol over a real socket and remembers what it was asked."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest

from lookonce import Lookonce

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
CONTEXT_ID = "ab" * 32
CONTEXT = {
    "object": "context",
    "id": CONTEXT_ID,
    "description": "a red circle",
    "image_tokens": 64,
    "kept_tokens": 4,
    "tokens": 20,
    "bytes": 4096,
    "retention": 0.05,
    "selection": "attention",
    "precision": "int8",
    "created_at": 1_700_000_000,
    "expires_at": None,
}
STATS = {
    "object": "context.stats",
    "contexts": 2,
    "bytes": 3 * 1024**2,
    "oldest": 1_700_000_000,
    "newest": 1_700_000_060,
    "hits": 3,
    "misses": 1,
    "hit_rate": 0.75,
}
USAGE = {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 20}}


class FakeServer(ThreadingHTTPServer):
    """Answers as specified; `contexts` is what it keeps, `requests` what it saw, `refuse` an error for all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contexts: set[str] = set()
        self.requests: list[tuple[str, str, dict]] = []
        self.headers: list[dict[str, str]] = []
        self.refuse: tuple[int, bytes] | None = None
        self.hidden: set[str] = set()  # ids that pages leave out, as a server does with those of other models
        self.retry_after: str | None = None
        self.stream_events: list[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def image_urls(self) -> list[str]:
        """The image of each chat request, in order."""
        chats = [body for _, path, body in self.requests if path == "/v1/chat/completions"]
        return [chat["messages"][0]["content"][0]["image_url"]["url"] for chat in chats]


class Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.requests.append((self.command, self.path, body))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.refuse:
            return self.reply(*self.server.refuse)
        if self.path == "/v1/models":
            return self.reply_json(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        if self.path == "/v1/chat/completions":
            return self.chat(body)
        return self.context(body)

    do_GET = do_POST = do_DELETE = handle_request  # noqa: N815 - http.server's own names

    def chat(self, body: dict) -> None:
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        hit = bool(self.server.contexts)
        if url.startswith("lookonce:") and not hit:
            return self.not_found()
        self.server.contexts.add(CONTEXT_ID)
        facts = {
            "cache": "hit" if hit else "miss",
            "tier": "memory" if hit else None,
            "context_id": CONTEXT_ID,
            "context_tokens": 20 if hit else 80,
            "tokens_saved": 60 if hit else 0,
            "image_tokens": 64,
        }
        if body.get("stream"):
            return self.stream(facts)
        message = {"role": "assistant", "content": "red"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self.reply_json(200, {"choices": [choice], "usage": USAGE, "lookonce": facts})

    def stream(self, facts: dict) -> None:
        chunks = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "lookonce": facts},
            {"choices": [{"index": 0, "delta": {"content": "dark "}}]},
            {"choices": [{"index": 0, "delta": {"content": "rød"}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": USAGE},
        ]
        events = self.server.stream_events or [*map(json.dumps, chunks), "[DONE]"]
        self.reply(200, "".join(f"data: {event}\n\n" for event in events).encode(), "text/event-stream")

    def context(self, body: dict) -> None:
        if self.command == "POST":
            self.server.contexts.add(CONTEXT_ID)
            return self.reply_json(200, CONTEXT)
        url = urlsplit(self.path)
        if url.path == "/v1/contexts":
            return self.page(**dict(parse_qsl(url.query)))
        if url.path == "/v1/contexts/stats":
            return self.reply_json(200, STATS)
        context_id = url.path.rpartition("/")[2]
        if context_id not in self.server.contexts:
            return self.not_found()
        if self.command == "DELETE":
            self.server.contexts.remove(context_id)
            return self.reply_json(200, {"id": context_id, "object": "context.deleted", "deleted": True})
        return self.reply_json(200, CONTEXT | {"id": context_id})

    def page(self, limit: str = "100", after: str = "") -> None:
        left = [context_id for context_id in sorted(self.server.contexts) if f"after {context_id}" > after]
        shown = left[: int(limit)]
        more = f"after {shown[-1]}" if len(shown) < len(left) else None
        data = [CONTEXT | {"id": context_id} for context_id in shown if context_id not in self.server.hidden]
        self.reply_json(200, {"object": "list", "data": data, "has_more": more is not None, "next": more})

    def not_found(self) -> None:
        error = {"message": "no such context", "type": "invalid_request_error", "param": None}
        self.reply_json(404, {"error": {**error, "code": "context_not_found"}})

    def reply_json(self, status: int, body: dict) -> None:
        self.reply(status, json.dumps(body).encode())

    def reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-request-id", "req-1")
        if self.server.retry_after:
            self.send_header("retry-after", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Lookonce]:
    with Lookonce(server.url) as client:
        yield client


@pytest.fixture
def png() -> bytes:
    """The bytes of something that starts as a PNG file does."""
    return PNG


@pytest.fixture
def context_id() -> str:
    """The id of the only context that the server makes."""
    return CONTEXT_ID

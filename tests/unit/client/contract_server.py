"""A server that speaks lookonce's protocol over a real socket and remembers what it was asked."""

import base64
import hashlib
import json
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

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
    "tokens_saved": 900,
}
TOKENS = {
    "object": "context.tokens",
    "id": CONTEXT_ID,
    "grid": [2, 2],
    "boxes": [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]],
    "scores": [0.1, 0.2, 0.3, 0.4],
    "kept": [3],
    "retention": 0.05,
    "selection": "attention",
}
USAGE = {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 20}}
FULL_USAGE = {"prompt_tokens": 90, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
GREY = b"\x89PNG grid of "  # what heat maps are drawn on


def urls(body: dict) -> list[str]:
    """The images of a chat request, in order."""
    contents = [message["content"] for message in body["messages"] if not isinstance(message["content"], str)]
    parts = [part for content in contents for part in content]
    return [part[part["type"]]["url"] for part in parts if part["type"] != "text"]


def id_of(url: str) -> str:
    """The id of an image's context: the same for `PNG` and whatever is not sent as bytes."""
    if url.startswith("lookonce:"):
        return url.removeprefix("lookonce:")
    data = base64.b64decode(url.partition(",")[2]) if url.startswith("data:") else PNG
    return CONTEXT_ID if data == PNG else hashlib.sha256(data).hexdigest()


def use(context_id: str | None, is_hit: bool, is_bypassed: bool) -> dict:
    """What the server says of one image."""
    return {
        "context_id": context_id,
        "cache": "bypass" if is_bypassed else "hit" if is_hit else "miss",
        "tier": "memory" if is_hit else None,
        "context_tokens": 20 if is_hit else 0,
        "image_tokens": 64,
    }


def sum_of(uses: list[dict]) -> dict:
    """What the server says of all images: an answer comes from their contexts, or from all of their pixels."""
    is_hit = bool(uses) and all(one["cache"] == "hit" for one in uses)
    caches = [one["cache"] for one in uses if one["cache"] != "hit"] or ["hit" if uses else "none"]
    return {
        "cache": caches[0],
        "tier": "memory" if is_hit else None,
        "context_id": uses[0]["context_id"] if len(uses) == 1 else None,
        "context_tokens": 20 * len(uses) * is_hit,
        "tokens_saved": 70 * len(uses) * is_hit,
        "image_tokens": 64 * len(uses),
    }


class Failure(NamedTuple):
    """What a request gets in place of what it asks for; a status of 0 cuts the connection."""

    status: int
    code: str | None = None
    retry_after: str | None = None


class ContractServer(ThreadingHTTPServer):
    """Answers as specified.

    Attributes:
        contexts: ids of what it keeps.
        requests: method, path and body of what it was sent.
        headers: of the same.
        refuse: the status and body that every request gets; None for none.
        failures: what the next requests get, one each, after those that ask for the models.
        hidden: ids that pages leave out, as a server does with those of other models.
        retry_after: sent with every reply; None for not at all.
        stream_events: of an answer or a description, in place of its own.
        answers: by question; "red" where there is none.
        has_images: answers say what became of each image, as of servers that take several.
        making: a question does not make the context, as while a describe pass is under way.
        together: questions by id wait here for one another, or until its patience ends.
        most_at_once: chat requests that were under way at the same time.
        is_framed: heat maps can be drawn over the image.
        held: when set, a stream stops after its first piece, or so many events, until `go_on` is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contexts: set[str] = set()
        self.requests: list[tuple[str, str, dict]] = []
        self.headers: list[dict[str, str]] = []
        self.refuse: tuple[int, bytes] | None = None
        self.failures: deque[Failure] = deque()
        self.hidden: set[str] = set()
        self.retry_after: str | None = None
        self.stream_events: list[str] | None = None
        self.answers: dict[str, str] = {}
        self.has_images = True
        self.making = False
        self.together: threading.Barrier | None = None
        self.most_at_once = 0
        self.at_once = 0
        self.is_framed = True
        self.held: bool | int = False
        self.go_on = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, path: str = "/v1/chat/completions") -> list[dict]:
        """The bodies sent to a path, in order."""
        return [body for _, sent_to, body in self.requests if sent_to == path]

    def image_urls(self) -> list[str]:
        """The first image of each chat request, in order."""
        return [urls(body)[0] for body in self.bodies()]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no fault."""


class Handler(BaseHTTPRequestHandler):
    server: ContractServer
    disable_nagle_algorithm = True  # a reply is written in two parts, and would wait 40 ms between them
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
        if self.server.failures:
            return self.fail(self.server.failures.popleft())
        if self.path == "/v1/chat/completions":
            return self.counted(body)
        return self.context(body)

    do_GET = do_POST = do_DELETE = handle_request  # noqa: N815 - http.server's own names

    def fail(self, failure: Failure) -> None:
        if not failure.status:
            self.close_connection = True
            return
        self.server.retry_after = failure.retry_after
        error = {"message": "in trouble", "type": "server_error", "param": None, "code": failure.code}
        self.reply_json(failure.status, {"error": error})
        self.server.retry_after = None

    def counted(self, body: dict) -> None:
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self.chat(body)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def chat(self, body: dict) -> None:
        wishes = body.get("lookonce", {})
        is_bypassed = wishes.get("cache") == "bypass"
        ids = {id_of(url): url for url in dict.fromkeys(urls(body))}
        hits = {context_id: context_id in self.server.contexts and not is_bypassed for context_id in ids}
        for context_id, url in ids.items():
            if url.startswith("lookonce:") and not hits[context_id]:
                return self.not_found(context_id)
        if self.server.together and any(url.startswith("lookonce:") for url in ids.values()):
            with suppress(threading.BrokenBarrierError):
                self.server.together.wait()
        if not is_bypassed and not self.server.making:
            self.server.contexts.update(ids)
        uses = [use(None if is_bypassed else context_id, is_hit, is_bypassed) for context_id, is_hit in hits.items()]
        facts, hit = sum_of(uses), all(hits.values())
        if self.server.has_images:
            facts["images"] = uses
        if hit and wishes.get("fallback"):
            hit = False
            facts |= {"tier": None, "context_tokens": 0, "tokens_saved": 0, "fallback": "full_pass"}
        usage = USAGE if hit else FULL_USAGE
        last = body["messages"][-1]["content"]
        question = last if isinstance(last, str) else last[-1]["text"]
        text = self.server.answers.get(question, "red")
        if body.get("stream"):
            return self.stream_answer(facts, usage)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return self.reply_json(200, {"choices": [choice], "usage": usage, "lookonce": facts})

    def stream_answer(self, facts: dict, usage: dict) -> None:
        chunks = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "lookonce": facts},
            {"choices": [{"index": 0, "delta": {"content": "dark "}}]},
            {"choices": [{"index": 0, "delta": {"content": "rød"}}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": usage},
        ]
        self.stream(chunks, pause_after=2)

    def stream(self, events: list[dict], pause_after: int) -> None:
        lines = self.server.stream_events or [*map(json.dumps, events), "[DONE]"]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-request-id", "req-1")
        self.send_header("connection", "close")
        self.end_headers()
        for place, line in enumerate(lines):
            if self.server.held and place == (pause_after if self.server.held is True else self.server.held):
                self.server.go_on.wait(20)
            self.wfile.write(f"data: {line}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True

    def context(self, body: dict) -> None:
        url = urlsplit(self.path)
        context_id, _, part = url.path.removeprefix("/v1/contexts/").partition("/")
        query = dict(parse_qsl(url.query))
        if url.path == "/v1/contexts":
            return self.make_context(body) if self.command == "POST" else self.page(**query)
        if context_id == "stats":
            return self.reply_json(200, STATS)
        if context_id not in self.server.contexts:
            return self.not_found(context_id)
        if self.command == "DELETE":
            self.server.contexts.remove(context_id)
            return self.reply_json(200, {"id": context_id, "object": "context.deleted", "deleted": True})
        if part == "tokens":
            return self.reply_json(200, TOKENS | {"retention": float(query.get("retention", 0.05))})
        if part == "heatmap.png" and self.command == "POST" and not self.server.is_framed:
            return self.reply_json(400, {"error": {"message": "no places", "type": "invalid_request_error"}})
        if part == "heatmap.png":
            drawn_on = body.get("image_url", "").encode() or GREY
            return self.reply(200, drawn_on + query.get("retention", "0.05").encode(), "image/png")
        return self.reply_json(200, CONTEXT | {"id": context_id})

    def make_context(self, body: dict) -> None:
        context_id = id_of(body.get("image_url") or body["video_url"])
        created = context_id not in self.server.contexts
        self.server.contexts.add(context_id)
        made = CONTEXT | {"id": context_id, "retention": body.get("retention", 0.05)}
        if not body.get("stream"):
            return self.reply_json(200, made)
        told = [{"type": "context.describing"}]
        told += [{"type": "context.description.delta", "delta": piece} for piece in ("a red ", "circle")]
        completed = {"type": "context.completed", "context": made, "created": created}
        return self.stream([{"type": "context.queued"}, *(told if created else []), completed], pause_after=3)

    def page(self, limit: str = "100", after: str = "") -> None:
        left = [context_id for context_id in sorted(self.server.contexts) if f"after {context_id}" > after]
        shown = left[: int(limit)]
        more = f"after {shown[-1]}" if len(shown) < len(left) else None
        data = [CONTEXT | {"id": context_id} for context_id in shown if context_id not in self.server.hidden]
        self.reply_json(200, {"object": "list", "data": data, "has_more": more is not None, "next": more})

    def not_found(self, context_id: str) -> None:
        error = {"message": f"no such context: {context_id!r}", "type": "invalid_request_error", "param": None}
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

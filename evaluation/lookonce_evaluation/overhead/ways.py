"""The ways to ask that are compared. All but the last share one process, one event loop, one engine and one client."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import uvicorn

from lookonce_cache import DEFAULT_TENANT, CompressedContext
from lookonce_evaluation.benching import png
from lookonce_evaluation.overhead.connection import connected, post
from lookonce_evaluation.server_process import ServerProcess
from lookonce_server.app import running_app
from lookonce_server.engines.base import Answer, Engine, Piece, Sampling, Started
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.http.state import AppState
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import Settings

DIRECT, SERVER, BARE, PROCESS = "direct", "server", "bare uvicorn", "lookonce serve"
MODEL, NONE = "scenes", "none"
_CHAT = "/v1/chat/completions"
_QUESTION = "Describe the image."  # its answer has more tokens than are asked for
_CHUNK = b"data: " + b"x" * 240 + b"\n\n"  # as long as an event of an answer
_WHOLE = b"x" * 640  # as long as an answer

Ask = Callable[[], Awaitable[object]]


class Load(NamedTuple):
    """What is asked: of the model that ships, or of no model, whose answers are there at once."""

    engine: str
    tokens: int
    stream: bool
    concurrency: int


class Way(Protocol):
    """A way to ask."""

    def asking(self, load: Load) -> AbstractAsyncContextManager[Sequence[Ask]]:
        """A function to ask with for each of those who ask at once."""


class Direct:
    """`Sessions.ask`, which the server calls too: no HTTP. The least that an answer takes in this process.

    Args:
        parts: the server's, by engine.
        context_id: what is asked about.
    """

    def __init__(self, parts: dict[str, AppState], context_id: str) -> None:
        self._parts = parts
        self._image = ContextReference(context_id)

    @asynccontextmanager
    async def asking(self, load: Load) -> AsyncIterator[Sequence[Ask]]:
        """See `Way.asking`."""
        sessions = self._parts[load.engine].sessions
        conversation = Conversation((Turn("user", _QUESTION, has_image=True),))
        sampling = Sampling(load.tokens)

        async def ask() -> None:
            session = await sessions.ask(conversation, self._image, sampling, tenant=DEFAULT_TENANT)
            async with aclosing(session.answers[0]) as answer:
                async for _ in answer:
                    pass

        yield [ask] * load.concurrency


class Http:
    """Requests to a server, each on a connection that was there before.

    Args:
        url: of the server.
        request: a request's bytes, at a load.
    """

    def __init__(self, url: str, request: Callable[[Load], bytes]) -> None:
        self._url = url
        self._request = request

    @asynccontextmanager
    async def asking(self, load: Load) -> AsyncIterator[Sequence[Ask]]:
        """See `Way.asking`."""
        request = self._request(load)
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(connected(self._url)) for _ in range(load.concurrency)]
            yield [partial(connection.ask, request) for connection in connections]


class NoModel:
    """An engine's answers from contexts without the model: what is left is the server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def answer(self, context: CompressedContext, conversation: Conversation, sampling: Sampling) -> Answer:
        """As many tokens as may be, at once."""
        yield Started(24, 7, 203)
        for left in range(sampling.max_tokens, 0, -1):
            yield Piece(" small", 1, None if left > 1 else "length")


@asynccontextmanager
async def opened() -> AsyncIterator[dict[str, Way]]:
    """The ways, by name."""
    settings = Settings()
    logging.getLogger("uvicorn.access").disabled = True
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running_app(settings))
        parts: AppState = app.state.parts
        by_engine = {MODEL: parts, NONE: _without_model(parts)}
        context = await parts.contexts.create(DEFAULT_TENANT, ImageBytes(png(1), "image"))

        async def served(scope: Any, receive: Any, send: Any) -> None:
            engine = NONE if scope["path"].endswith(NONE) else MODEL
            scope["path"] = scope["path"].removesuffix(NONE)
            app.state.parts = by_engine[engine]
            await app(scope, receive, send)

        def to_server(load: Load) -> bytes:
            return post(_CHAT + (NONE if load.engine == NONE else ""), _question(load, context.id))

        url = await stack.enter_async_context(_under_uvicorn(served))
        bare = await stack.enter_async_context(_under_uvicorn(_bare))
        process = stack.enter_context(ServerProcess())
        there = await _context_of(process.url)
        yield {
            DIRECT: Direct(by_engine, context.id),
            SERVER: Http(url, to_server),
            BARE: Http(bare, lambda load: post(f"/{_events(load)}", _question(load, context.id))),
            PROCESS: Http(process.url, lambda load: post(_CHAT, _question(load, there))),
        }


def _without_model(parts: AppState) -> AppState:
    engine = NoModel(parts.engine)
    on_miss = parts.settings.on_miss
    sessions = Sessions(engine, parts.contexts, images=parts.images, on_miss=on_miss, metrics=parts.metrics)
    return replace(parts, engine=engine, sessions=sessions)


def _question(load: Load, context_id: str) -> bytes:
    content = [
        {"type": "text", "text": _QUESTION},
        {"type": "image_url", "image_url": {"url": f"lookonce:{context_id}"}},
    ]
    return json.dumps(
        {
            "model": Settings().api_model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": load.tokens,
            "stream": load.stream,
        }
    ).encode()


def _events(load: Load) -> int:
    """How many events the server sends: the role, the tokens, the end and [DONE]; 0 where it does not stream."""
    return load.tokens + 3 if load.stream else 0


async def _bare(scope: Any, receive: Any, send: Any) -> None:
    """An app that reads a request and answers it by heart: a stream of as many events as its path says, or JSON."""
    while (await receive()).get("more_body"):
        pass
    events = int(scope["path"][1:])
    kind, size = (b"text/event-stream", []) if events else (b"application/json", [(b"content-length", b"640")])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), *size]})
    for _ in range(events):
        await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if events else _WHOLE})


@asynccontextmanager
async def _under_uvicorn(app: Any) -> AsyncIterator[str]:
    """Where the app listens, in this process, as `lookonce serve` has it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def _context_of(server: str) -> str:
    """The id of the image's context on another server."""
    image = f"data:image/png;base64,{base64.b64encode(png(1)).decode()}"
    async with connected(server) as connection:
        made = await connection.ask(post("/v1/contexts", json.dumps({"image_url": image}).encode()))
    return str(json.loads(made)["id"])

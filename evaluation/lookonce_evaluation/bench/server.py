"""Measure what the HTTP server adds to an answer: `make bench-server`.

Every question is about a context that is known, given by its id. It is asked by four methods:

- direct: the server's sessions and engine, called in the process, without HTTP;
- server: what `lookonce serve` runs, its app, listener and connections, on the same sessions and engine, in the same
  process;
- bare uvicorn: an app under plain uvicorn that answers by heart, as many bytes and events: what HTTP and the client
  cost;
- lookonce serve: a server process of its own, with its own engine, and its access log.

The client is a bare socket on the same event loop: no client's library is measured. `none` as the model is an engine
that has its answers at once: what is left is the server. One run asks by all methods in turn, round by round, each
round in an order of its own, so that what else the machine does falls on all alike. Differences and ratios are to
`direct` of the same round, and their medians are given with half of the quartiles' distance; p99 is of all rounds'
answers.
"""

import asyncio
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvicorn

import lookonce
from lookonce_cache import DEFAULT_TENANT, CompressedContext
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import LookonceServer
from lookonce_evaluation.bench.methods import about, png
from lookonce_evaluation.bench.timing import Spread
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.tables import record_table
from lookonce_server.app import running_app
from lookonce_server.engines.base import Answer, Engine, Piece, Sampling, Started
from lookonce_server.engines.conversation import Conversation
from lookonce_server.http.protocol.connection import RefusalLog
from lookonce_server.http.state import AppState
from lookonce_server.images.sources import ContextReference, ImageBytes
from lookonce_server.server import Server
from lookonce_server.sessions.sessions import Sessions
from lookonce_server.settings import Settings

DIRECT, SERVER, BARE, PROCESS = "direct", "server", "bare uvicorn", "lookonce serve"
MODEL, NONE = "scenes", "none"
_LEFT_OUT = {MODEL: (BARE,), NONE: (PROCESS,)}  # what no model changes, and what has no other
_QUESTION = "Describe the image."  # its answer has more tokens than are asked for
_EVENT = b"data: " + b"x" * 240 + b"\n\n"  # as long as an event of an answer
_WHOLE = b"x" * 640  # as long as an answer


class Load(NamedTuple):
    """A kind of question, and how many ask it at once."""

    model: str  # the one that ships, or none, whose answers are there at once
    tokens: int
    stream: bool
    concurrency: int


Ask = Callable[[], Awaitable[object]]
Method = Callable[[Load], AbstractAsyncContextManager[list[Ask]]]
"""Gives a function to ask with to each of those who ask at once."""


class NoModel:
    """An engine that answers from contexts at once, without the model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def answer(
        self, contexts: Sequence[CompressedContext], conversation: Conversation, sampling: Sampling
    ) -> Answer:
        """Answer with as many tokens as may be."""
        yield Started(24, 7, 203)
        for left in range(sampling.max_tokens, 0, -1):
            yield Piece(" small", 1, None if left > 1 else "length")


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Callable[[bytes], Awaitable[bytes]]]:
    """Open a connection to a server; yield a function that sends a request on it.

    It is the least HTTP client: it returns the body once all of it is there, and raises EvaluationError unless the
    status is 200.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)

    async def ask(request: bytes) -> bytes:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        body = await (reader.readexactly(int(length[1])) if length else _read_chunks(reader))
        if not head.startswith(b"http/1.1 200"):
            raise EvaluationError(f"the server answered {head.decode()}{body.decode(errors='replace')}")
        return body

    try:
        yield ask
    finally:
        writer.close()
        await writer.wait_closed()


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int(await reader.readline(), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    await reader.readline()
    return b"".join(chunks)


@asynccontextmanager
async def over_http(url: str, context_id: str, load: Load) -> AsyncIterator[list[Ask]]:
    """Ask a server, each on a connection that was there before."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(url)) for _ in range(load.concurrency)]
        yield [partial(ask, _request(context_id, load)) for ask in connections]


@asynccontextmanager
async def in_process() -> AsyncIterator[dict[str, Method]]:
    """Run the methods of this process, on one event loop, engine and client."""
    settings = Settings(port=0)
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running_app(settings))
        parts: AppState = app.state.parts
        by_model = {MODEL: parts, NONE: _without_model(parts)}
        context = await parts.contexts.create(DEFAULT_TENANT, ImageBytes(png(1), "image"))
        refusals = RefusalLog(parts.metrics)
        server = Server(app, settings, refusals=refusals, lifecycle=parts.lifecycle, on_listening=lambda url: None)
        url = await stack.enter_async_context(_serving(server))
        config = uvicorn.Config(_answer_by_heart, port=0, lifespan="off", log_config=None, access_log=False)
        bare_url = await stack.enter_async_context(_serving(uvicorn.Server(config)))

        @asynccontextmanager
        async def ask_server(load: Load) -> AsyncIterator[list[Ask]]:
            app.state.parts = by_model[load.model]
            async with over_http(url, context.id, load) as asks:
                yield asks

        @asynccontextmanager
        async def ask_directly(load: Load) -> AsyncIterator[list[Ask]]:
            yield [partial(_ask_sessions, by_model[load.model].sessions, context.id, load)] * load.concurrency

        yield {DIRECT: ask_directly, SERVER: ask_server, BARE: partial(over_http, bare_url, context.id)}


@asynccontextmanager
async def methods() -> AsyncIterator[dict[str, Method]]:
    """Run all methods."""
    async with in_process() as by_name:
        with LookonceServer() as process:
            with lookonce.Client(process.url) as client:
                context = client.image(png(1)).prepare()
            yield by_name | {PROCESS: partial(over_http, process.url, context.id)}


def _without_model(parts: AppState) -> AppState:
    engine, on_miss = NoModel(parts.engine), parts.settings.on_new_image
    sessions = Sessions(engine, parts.contexts, images=parts.images, on_miss=on_miss, metrics=parts.metrics)
    return replace(parts, engine=engine, sessions=sessions)


async def _ask_sessions(sessions: Sessions, context_id: str, load: Load) -> None:
    """Ask as the server does, without HTTP."""
    image, sampling = ContextReference(context_id), Sampling(load.tokens)
    session = await sessions.ask(about(_QUESTION), [image], sampling, tenant=DEFAULT_TENANT)
    async with aclosing(session.answers[0]) as answer:
        async for _ in answer:
            pass


def _request(context_id: str, load: Load) -> bytes:
    """Encode a request; its query tells the bare app how many events to send."""
    image = {"type": "image_url", "image_url": {"url": f"lookonce:{context_id}"}}
    body = {
        "model": "lookonce-scenes",
        "messages": [{"role": "user", "content": [{"type": "text", "text": _QUESTION}, image]}],
        "max_tokens": load.tokens,
        "stream": load.stream,
    }
    content = json.dumps(body).encode()
    events = load.tokens + 3 if load.stream else 0  # the role, the tokens, the end and [DONE]
    head = f"POST /v1/chat/completions?{events} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def _answer_by_heart(scope: Any, receive: Any, send: Any) -> None:
    """Read a request and answer with so many events, or with JSON if none."""
    while (await receive()).get("more_body"):
        pass
    events = int(scope["query_string"])
    kind, size = (b"text/event-stream", []) if events else (b"application/json", [(b"content-length", b"640")])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), *size]})
    for _ in range(events):
        await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
    await send({"type": "http.response.body", "body": b"" if events else _WHOLE})


@asynccontextmanager
async def _serving(server: uvicorn.Server) -> AsyncIterator[str]:
    """Run a server in this process; yield its URL."""
    running = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.wait((running,), timeout=0.01)
            if running.done():
                running.result()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


async def ask_all(asks: Sequence[Ask], each: int) -> list[float]:
    """Ask at once, each one question after the other; return all milliseconds."""
    times: list[float] = []

    async def ask_on(ask: Ask) -> None:
        for _ in range(each):
            started = time.perf_counter()
            await ask()
            times.append(1000 * (time.perf_counter() - started))

    await asyncio.gather(*map(ask_on, asks))
    return times


async def measure(loads: Sequence[Load], rounds: int, answers: int) -> list[dict[str, Any]]:
    """Measure every load by every method; return the figures.

    Args:
        loads: the loads.
        rounds: the number of rounds.
        answers: the least number of answers of a load, method and round.
    """
    async with methods() as by_name:
        times: dict[tuple[Load, str], list[list[float]]] = {
            (load, method): [] for load in loads for method in by_name if method not in _LEFT_OUT[load.model]
        }
        for number in range(rounds + 1):
            for load, method in random.Random(number).sample(list(times), len(times)):
                async with by_name[method](load) as asks:
                    milliseconds = await ask_all(asks, max(2, answers // load.concurrency))
                if number:  # the first round warms up
                    times[load, method].append(milliseconds)
    return [row(load, method, own, times[load, DIRECT]) for (load, method), own in times.items()]


def row(load: Load, method: str, own: list[list[float]], direct: list[list[float]]) -> dict[str, Any]:
    """Compare a method's milliseconds, by round, with those of the direct method."""
    medians = [[statistics.median(answers) for answers in rounds] for rounds in (own, direct)]
    pairs = list(zip(*medians, strict=True))
    return {
        **load._asdict(),
        "method": method,
        "p50_ms": Spread.of(medians[0]),
        "p99_ms": statistics.quantiles(itertools.chain(*own), n=100, method="inclusive")[-1],
        "added_ms": Spread.of(median - least for median, least in pairs),
        "over_direct": Spread.of(median / least for median, least in pairs),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("server", __doc__, quick="one round of a few answers, to one and to four at once")
    parser.add_argument("--rounds", type=int, default=15, help="[%(default)s]")
    arguments = parser.parse_args(args)
    rounds, answers = (1, 2) if arguments.quick else (arguments.rounds, 64)
    at_once = (1, 4) if arguments.quick else (1, 32)
    loads = [Load(*load) for load in itertools.product((NONE, MODEL), (1, 8), (False, True), at_once)]
    rows = asyncio.run(measure(loads, rounds, answers))
    print(
        record_table(
            [
                {name: f"{cell:.2f}" if isinstance(cell, float | Spread) else cell for name, cell in row.items()}
                for row in rows
            ]
        )
    )
    command.write_json(arguments.json, {"rows": rows})


if __name__ == "__main__":
    command.run(main)

"""A client that leaves, or a server that ends, at any step of the event loop: no answer is left open behind it."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from lookonce_server.engines.base import Answer, Piece, Started, TokenLogprob

from ....support.app_requests import OTHER_URL, URL, body, image, user

pytestmark = pytest.mark.anyio
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
IMAGE_INPUT = [{"role": "user", "content": [{"type": "input_image", "image_url": URL, "detail": "auto"}]}]
QUESTIONS = [
    (CHAT, body(n=2)),
    (CHAT, body(n=2, messages=[user("What?", image())])),
    (CHAT, body(messages=[user("What?", image())], lookonce={"fallback": True})),
    (CHAT, body(messages=[user("What?", image(), image(OTHER_URL))], lookonce={"fallback": True})),
    (RESPONSES, {"model": "m", "input": IMAGE_INPUT}),
]


class InlineExecutor(ThreadPoolExecutor):
    """Threads whose work is done at once, so that each run of a request takes the same steps."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Passes:
    """An engine's passes of a few quick tokens, and how many of them are open."""

    def __init__(self, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = self.open = 0
        monkeypatch.setattr(engine, "full", lambda *_: self._run())
        monkeypatch.setattr(engine, "answer", lambda *_: self._run())

    async def _run(self) -> Answer:
        self.open += 1
        self.opened += 1
        try:
            yield Started(30, 10, 210)
            logprob = TokenLogprob(1, -0.1, ((1, -0.1), (2, -9.0)))
            for last in (False, False, True):
                await asyncio.sleep(0)
                yield Piece("a", 1, "stop" if last else None, logprob)
        finally:
            self.open -= 1


async def ask(app: Any, path: str, question: Any, ticks: int, *, client_leaves: bool) -> bool:
    """Ask, and break the request off after so many steps of the loop; whether it had ended by itself."""
    left = asyncio.Event()
    unread = [{"type": "http.request", "body": json.dumps(question).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if unread:
            return unread.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if left.is_set():
            raise ConnectionResetError

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    scope |= {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    scope |= {"scheme": "http", "root_path": "", "server": ("localhost", 80)}
    task = asyncio.create_task(app(scope, receive, send))
    for _ in range(ticks):
        await asyncio.sleep(0)
    has_ended = task.done()
    if client_leaves:
        left.set()
    else:
        task.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(task, return_exceptions=True)
    return has_ended


@pytest.mark.parametrize("client_leaves", [True, False], ids=["client leaves", "server ends"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_no_answer_is_left_open(app, client, engine, monkeypatch, stream, client_leaves):
    for url in (URL, OTHER_URL):
        prepared = await client.post("/v1/contexts", json={"image_url": url})
        assert prepared.status_code == 200
    asyncio.get_running_loop().set_default_executor(InlineExecutor())
    passes = Passes(engine, monkeypatch)
    tasks = asyncio.all_tasks()
    for path, question in QUESTIONS:
        passes.opened = 0
        for ticks in range(300):
            if await ask(app, path, question | {"stream": stream}, ticks, client_leaves=client_leaves):
                break
            assert (passes.open, asyncio.all_tasks() - tasks) == (0, set()), (path, question, ticks)
        else:
            pytest.fail("it has not ended by itself")
        assert passes.opened > ticks // 3, "too many of the runs were broken off before their answers began"

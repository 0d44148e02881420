"""Request bodies: too large, too slow, too many at once; an answer comes in each case, and nothing stays held."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from lookonce_server.http.middleware.body_limit import BodyLimitMiddleware

pytestmark = pytest.mark.anyio
LIMITS = {"max_bytes": 100, "max_held_bytes": 150, "seconds": 60}


class Exchange:
    """One request whose body comes in the pieces given; a None waits for ever."""

    def __init__(self, app, *pieces: bytes | None, **headers: str) -> None:
        self.sent: list[dict] = []
        self.read = 0
        self._app = app
        self._pieces = list(pieces)
        names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self._scope = {"type": "http", "method": "POST", "path": "/", "headers": names, "query_string": b""}

    async def run(self) -> "Exchange":
        await self._app(self._scope, self._receive, self._send)
        return self

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def closes(self) -> bool:
        return (b"connection", b"close") in self.sent[0]["headers"]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    async def _receive(self) -> dict:
        if not self._pieces or self._pieces[0] is None:
            await asyncio.Event().wait()
        piece = self._pieces.pop(0)
        self.read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def _send(self, message: dict) -> None:
        self.sent.append(message)


async def echo(scope, receive, send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


def limited(app=echo, **limits) -> BodyLimitMiddleware:
    return BodyLimitMiddleware(app, **LIMITS | limits)


async def test_a_body_within_the_limits_goes_through():
    reply = await Exchange(limited(), b"x" * 60, b"y" * 40, content_length="100").run()
    assert (reply.status, reply.body) == (200, b"100")


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        ([b"x" * 101], {"content_length": "101"}),
        ([b"x" * 101], {}),
        ([b"x" * 60, b"x" * 41], {"transfer_encoding": "chunked"}),
        ([b"x" * 60, b"x" * 41], {"content_length": "5"}),
        ([b"x" * 60, b"x" * 41], {"content_length": "-1"}),
        ([b"x" * 60, b"x" * 41], {"content_length": "many"}),
    ],
)
async def test_a_larger_body_is_refused_whatever_it_says_of_its_length(pieces, headers):
    reply = await Exchange(limited(), *pieces, **headers).run()
    assert (reply.status, reply.closes) == (413, True)
    assert b'"code":"request_too_large"' in reply.body
    assert b"limit of 100 bytes" in reply.body


async def test_the_answer_is_out_before_the_rest_is_thrown_away_and_the_connection_closed():
    reply = await Exchange(limited(), *[b"x" * 101] * 50).run()
    assert reply.read == 50 * 101
    start, answer, end = reply.sent
    assert (start["status"], answer["more_body"], end.get("more_body", False)) == (413, True, False)
    assert int(dict(start["headers"])[b"content-length"]) == len(answer["body"]) == len(reply.body)


async def test_an_app_that_has_answered_already_is_not_answered_for():
    async def hasty(scope, receive, send) -> None:
        await PlainTextResponse("early")(scope, receive, send)
        await Request(scope, receive).body()

    reply = await Exchange(limited(hasty), b"x" * 101).run()
    assert (reply.status, reply.body) == (200, b"early")


@pytest.mark.parametrize("pieces", [[None], [b"x", b"y", None]])
async def test_a_body_that_does_not_come_is_not_waited_for(pieces):
    reply = await Exchange(limited(seconds=0.05), *pieces).run()
    assert (reply.status, reply.closes) == (408, True)
    assert b"did not arrive within 0.05 seconds" in reply.body


async def test_what_comes_after_the_body_has_all_the_time():
    """A disconnect, for which routes wait while they work."""

    async def waiting(scope, receive, send) -> None:
        await Request(scope, receive).body()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.1)
        await PlainTextResponse("done")(scope, receive, send)

    reply = await Exchange(limited(waiting, seconds=0.05), b"x").run()
    assert (reply.status, reply.body) == (200, b"done")


async def test_all_bodies_together_have_a_bound_until_their_answers_have_ended():
    go_on = asyncio.Event()

    async def holding(scope, receive, send) -> None:
        body = await Request(scope, receive).body()
        await go_on.wait()
        await PlainTextResponse(str(len(body)))(scope, receive, send)

    app = limited(holding)
    first = asyncio.create_task(Exchange(app, b"x" * 90).run())
    while app._held < 90:  # noqa: ASYNC110 - it tells no event
        await asyncio.sleep(0)
    told = Exchange(app, b"x" * 61, content_length="61")
    for refused in (await told.run(), await Exchange(app, b"x" * 30, b"x" * 31).run()):
        assert refused.status == 429
        assert b'"code":"overloaded"' in refused.body
        assert (b"retry-after", b"1") in refused.sent[0]["headers"]
    go_on.set()
    assert (await Exchange(app, b"x" * 60).run()).body == b"60"
    assert (await first).body == b"90"
    assert app._held == 0


async def test_what_failed_is_held_no_longer():
    async def failing(scope, receive, send) -> None:
        await Request(scope, receive).body()
        raise RuntimeError

    app = limited(failing)
    for _ in range(5):
        with pytest.raises(RuntimeError):
            await Exchange(app, b"x" * 100).run()
    assert app._held == 0

"""Several answers read at once: as they come, and none left behind."""

import asyncio

import pytest

from lookonce_server.engines.base import Piece, Started
from lookonce_server.errors import EngineError, OverloadedError
from lookonce_server.sessions.answer_streams import AnswerStreams, start_answers

from ....support.samples import tasks_of

pytestmark = pytest.mark.anyio
STARTED = Started(3, 2, 1)
LAST = Piece(".", 1, "stop")


class Scripted:
    """An answer that gives its events, each when it is let, and knows how it ended."""

    def __init__(self, *events: Started | Piece | Exception, let: bool = True) -> None:
        self.events = events
        self.closed = False
        self._turns = asyncio.Semaphore(len(events) if let else 0)

    def let(self) -> None:
        """Let the next event out."""
        self._turns.release()

    async def __call__(self):
        try:
            for event in self.events:
                await self._turns.acquire()
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True


@pytest.fixture(autouse=True)
async def no_task_is_left():
    yield
    assert not tasks_of(AnswerStreams)


async def test_pieces_come_in_the_order_in_which_they_are_made():
    scripts = [Scripted(STARTED, Piece(f"{i}a", 1, None), Piece(f"{i}b", 1, "stop"), let=False) for i in range(2)]
    async with AnswerStreams([script() for script in scripts]) as answers:
        for i in (0, 0, 1):  # the first one's first piece is made before the second one begins
            scripts[i].let()
        assert await answers.start() == (STARTED, STARTED)
        pieces = aiter(answers)
        assert (await anext(pieces))[1].text == "0a"
        for i, text in ((1, "1a"), (1, "1b"), (0, "0b")):
            scripts[i].let()
            index, piece = await anext(pieces)
            assert (index, piece.text) == (i, text)
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
    assert all(script.closed for script in scripts)


async def test_an_answer_that_cannot_begin_ends_them_all():
    scripts = [Scripted(STARTED, LAST), Scripted(OverloadedError("full")), Scripted(STARTED, let=False)]
    async with AnswerStreams([script() for script in scripts]) as answers:
        with pytest.raises(OverloadedError):
            await answers.start()
    assert all(script.closed for script in scripts)


async def test_an_answer_that_fails_ends_them_all():
    scripts = [
        Scripted(STARTED, Piece("a", 1, None), LAST, let=False),
        Scripted(STARTED, EngineError("why"), let=False),
    ]
    texts = []
    async with AnswerStreams([script() for script in scripts]) as answers:
        for i in (0, 1, 0, 1):
            scripts[i].let()
        await answers.start()
        with pytest.raises(EngineError, match="why"):
            texts += [piece.text async for _, piece in answers]
    assert all(script.closed for script in scripts)


async def read_all(*scripts: Scripted) -> list[tuple[int, Piece]]:
    async with asyncio.timeout(30), AnswerStreams([script() for script in scripts]) as answers:
        await answers.start()
        return [piece async for piece in answers]


async def test_an_answer_that_ends_unfinished_is_an_error_and_no_hang():
    for events in ((), (STARTED,), (STARTED, Piece("a", 1, None))):
        with pytest.raises(EngineError, match="before it was finished"):
            await read_all(Scripted(STARTED, LAST), Scripted(*events))


async def test_closing_before_the_first_step_and_closing_again():
    answers = AnswerStreams([Scripted(STARTED, LAST)()])
    await answers.close()
    await answers.close()


async def test_started_answers_are_closed_even_if_nobody_has_read_them():
    """As when the client leaves in the tick in which they start. They are held here, so no collector closes them."""
    scripts = [Scripted(STARTED, LAST) for _ in range(2)]
    passes = [script() for script in scripts]
    answers = AnswerStreams([answer.events() for answer in await start_answers(passes)])
    await answers.close()
    assert [script.closed for script in scripts] == [True, True]

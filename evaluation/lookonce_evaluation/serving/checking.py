"""Whether the ways that should give the same answers do, token by token."""

from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, NamedTuple

from vllm.outputs import RequestOutput

from lookonce_evaluation.benching import measure
from lookonce_evaluation.serving.clock import ClockedEngine
from lookonce_evaluation.serving.ways import (
    EVERYTHING,
    FULL,
    MEMORY,
    PREFIX,
    REDIS,
    Ways,
    about,
    after_describing,
    full_pass,
)
from lookonce_server.engines.base import Answer, Sampling

QUESTIONS = ("What is at the center?", "How many objects are there?", "Find the red object.", "Is there a star?")

Said = list[tuple[int, float]]  # tokens with their log-probabilities: random weights may say what has no text


class Compared(NamedTuple):
    """Answers to the same questions in two ways."""

    alike: int  # pairs of the same tokens
    pairs: int
    different: int  # answers among those of one way, told apart by tokens and log-probabilities
    furthest: float  # difference of a token's log-probabilities within the pairs that are alike


async def check(ways: Ways, tokens: int) -> dict[str, Compared]:
    """Ask in every way, one question after the other; this warms all of them up, too."""
    sampling = Sampling(tokens, logprobs=1)
    told: dict[str, list[Said]] = {}
    for name, way in ways.all.items():
        if name != FULL:  # it is asked about another picture each time
            told[name] = [await _said(way.engine, ask()) for ask in await way.prepare(QUESTIONS, sampling)]
            await way.tidy()

    async def fully(engine: ClockedEngine, question: str, *, described: bool) -> Said:
        asked = after_describing(ways.plan.prompt, question) if described else about(question)
        return await _said(engine, full_pass(engine, ways.image, asked, sampling))

    turns = [await fully(ways.engine, question, described=True) for question in QUESTIONS]
    alone = [await fully(ways.nothing_cached, question, described=False) for question in QUESTIONS[:2]]
    return {
        "compressed: memory, Redis": _compared(told[MEMORY], told[REDIS]),
        "full KV, Redis: full pass over the same turns": _compared(told[EVERYTHING], turns),
        "full pass: with prefix cache, without": _compared(told[PREFIX][: len(alone)], alone),
    }


def _compared(one: Sequence[Said], other: Sequence[Said]) -> Compared:
    pairs = list(zip(one, other, strict=True))
    alike = [(a, b) for a, b in pairs if [token for token, _ in a] == [token for token, _ in b]]
    apart = [abs(x - y) for a, b in alike for (_, x), (_, y) in zip(a, b, strict=True)]
    different = {tuple((token, round(logprob, 3)) for token, logprob in a) for a in one}
    return Compared(len(alike), len(pairs), len(different), max(apart, default=0.0))


async def _said(engine: ClockedEngine, answer: Awaitable[Answer]) -> Said:
    with _overheard(engine) as said:
        await measure(answer, 0.0)
    if not said:
        raise SystemExit("bench: an answer to be checked has no tokens")
    return said


@contextmanager
def _overheard(engine: ClockedEngine) -> Iterator[Said]:
    """What vLLM says within the block."""
    said: Said = []
    run = engine._requests.run

    async def listening(*arguments: Any, **named: Any) -> AsyncGenerator[RequestOutput]:
        async with aclosing(run(*arguments, **named)) as outputs:
            async for output in outputs:
                completion = output.outputs[0]
                for token, found in zip(completion.token_ids, completion.logprobs or (), strict=True):
                    assert found is not None
                    said.append((token, found[token].logprob))
                yield output

    engine._requests.run = listening  # type: ignore[method-assign]
    try:
        yield said
    finally:
        engine._requests.run = run  # type: ignore[method-assign]

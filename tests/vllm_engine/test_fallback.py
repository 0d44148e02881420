"""Asking again with vLLM: from the same signal as the embedded engine's."""

import math
from dataclasses import replace

import pytest

from lookonce_cache import MemoryStore
from lookonce_server.images.sources import ImageBytes
from lookonce_server.sessions.answer_streams import start_answers
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.sessions.fallback import Fallback, least_margin, request_margin

from ..support.samples import GREEDY, PLAN, TENANT, Bench, about, picture, png, read
from .engines import context_of

pytestmark = pytest.mark.anyio

QUESTIONS = ("How many objects are there?", "What is at the center?")


@pytest.mark.parametrize("logprobs", [None, 4])
async def test_asked_again_it_is_the_full_passs_answer_and_else_the_contexts(engine, logprobs):
    sampling = replace(GREEDY, logprobs=logprobs)
    store = MemoryStore()
    plain = Bench(engine, store, PLAN)
    await plain.create(png(1))

    async def asked(margin: float | None, **options) -> tuple:
        bench = plain if margin is None else Bench(engine, store, PLAN, fallback=Fallback(True, margin))
        session = await bench.sessions.ask(
            about(QUESTIONS[0]),
            [ImageBytes(png(1), "image")],
            sampling,
            tenant=TENANT,
            options=ContextOptions(**options),
        )
        return session.lookup.fallback, [(p.text, p.logprob) for p in (await read(*session.answers)).pieces]

    assert await asked(0.0) == ("none", (await asked(None))[1])
    again, full = await asked(math.inf), await asked(None, bypass=True)
    assert (again[0], [text for text, _ in again[1]]) == ("full_pass", [text for text, _ in full[1]])
    counts = {len(logprob.top) if logprob else None for _, logprob in again[1][:-1]}
    assert counts == {logprobs}


async def test_both_engines_have_one_signal(engine, reference):
    context = await context_of(reference, picture(71))
    for question in QUESTIONS:
        margins = []
        for one in (engine, reference):
            (answer,) = await start_answers([one.answer([context], about(question), request_margin(GREEDY))], 9)
            margins.append(least_margin(answer.first))
            await answer.rest.aclose()
        assert margins[0] == pytest.approx(margins[1], abs=1e-2)

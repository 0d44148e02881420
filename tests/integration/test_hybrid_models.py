"""Contexts with the states of recurrent layers, in a real Redis: one process makes them, another answers from them."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from lookonce_cache import open_store
from lookonce_cache.stores.redis.index import value_key
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.transformers import TransformersEngine

from ..support.hybrids import ATTENTION, HYBRIDS
from ..support.samples import PLAN, Bench, png

pytestmark = pytest.mark.anyio

QUESTION = "What color is it?"
HALF = replace(PLAN, window=(0, ATTENTION), max_tokens=4, retention=0.5)
LOGPROBS = Sampling(8, logprobs=0)


@pytest.fixture(params=["qwen3.5", "lfm2-vl"])
def engines(request) -> Iterator[list[TransformersEngine]]:
    """Two engines of the same checkpoint, with weights of their own."""
    engines = [TransformersEngine(HYBRIDS[request.param]()) for _ in range(2)]
    yield engines
    for engine in engines:
        asyncio.run(engine.close())


@pytest.mark.parametrize("precision", ["native", "int8"])
async def test_another_process_answers_from_the_same_states(engines, redis_server, precision):
    benches = [Bench(engine, open_store(redis_server.url), HALF, precision=precision) for engine in engines]
    maker, reader = benches
    for seed in (11, 12):
        await maker.create(png(seed))
    made = [await maker.ask(png(seed), QUESTION, sampling=LOGPROBS) for seed in (11, 12)]
    found = [await reader.ask(png(seed), QUESTION, sampling=LOGPROBS) for seed in (11, 12)]
    for one, other in zip(made, found, strict=True):
        assert (one.lookup.cache, other.lookup.cache) == ("hit", "hit")
        assert one.pieces == other.pieces
    assert found[0].pieces != found[1].pieces  # each picture has states of its own
    by_id = await reader.ask(reader.context_id(png(12)), QUESTION, sampling=LOGPROBS)
    assert by_id.pieces == found[1].pieces
    context = await maker.create(png(11))
    sizes = {info.key: info.bytes for info in await reader.listed()}
    assert sizes[context.key] == context.nbytes > sum(state.nbytes for state in context.states.values()) > 0
    for bench in benches:
        await bench.store.close()


async def test_damaged_states_are_a_miss(engines, redis_server):
    maker, reader = (Bench(engine, open_store(redis_server.url), HALF) for engine in engines)
    context = await maker.create(png(11))
    key = value_key(context.key)
    with redis_server.client() as client:
        at = client.strlen(key) - 20  # in the last state
        client.setrange(key, at, bytes([client.getrange(key, at, at)[0] ^ 1]))
    assert (await reader.ask(png(11), QUESTION, sampling=LOGPROBS)).lookup.cache == "miss"
    for bench in (maker, reader):
        await bench.settle()
        await bench.store.close()

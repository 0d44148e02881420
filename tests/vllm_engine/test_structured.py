"""Both engines hold answers to a schema, with the same tokens, and refuse the same schemas with the same words."""

import asyncio
import json
from dataclasses import replace

import jsonschema
import pytest

from lookonce_cache import MemoryStore
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.errors import InvalidRequestError

from ..support.samples import PLAN, Bench, picture, png
from ..support.schemas import ANY_OBJECT, ENDING, GROWING, REFUSED, an_object
from .engines import answered, context_of, fully

pytestmark = pytest.mark.anyio

QUESTION = "Find the red object."
OPTIONS = ({}, {"logprobs": 4}, {"presence_penalty": 1.0, "frequency_penalty": 0.5}, {"stop": (",", "blue")})


def held_to(schema, max_tokens=80, **options) -> Sampling:
    return Sampling(max_tokens, json_schema=schema if isinstance(schema, str) else json.dumps(schema), **options)


@pytest.fixture(scope="module")
async def context(reference):
    return await context_of(reference, picture(31), retention=0.5)


def told(asked) -> list:
    return [
        (p.text, p.finish_reason, p.logprob and (p.logprob.token, [token for token, _ in p.logprob.top]))
        for p in asked.pieces
    ]


@pytest.mark.parametrize("name", ENDING)
async def test_greedy_answers_are_the_same_and_of_the_schema(engine, reference, context, name):
    for options in OPTIONS:
        sampling = held_to(ENDING[name], **options)
        found, expected = [await answered(e, context, QUESTION, sampling) for e in (engine, reference)]
        assert told(found) == told(expected)
        for one, other in zip(found.pieces, expected.pieces, strict=True):
            if one.logprob:
                assert one.logprob.logprob == pytest.approx(other.logprob.logprob, abs=1e-4)
        if "stop" not in options:
            assert found.finish_reason == "stop"
            jsonschema.validate(json.loads(found.text), ENDING[name])


async def test_full_passes_are_held_to_it_alike(engine, reference):
    sampling = held_to(ENDING["nested"])
    for image, question in ((picture(31), QUESTION), (None, Conversation((Turn("user", (QUESTION,)),)))):
        found, expected = [await fully(e, image, question, sampling) for e in (engine, reference)]
        assert told(found) == told(expected)


async def test_an_answer_that_is_cut_says_so(engine, reference, context):
    sampling = held_to(an_object(text={"type": "string"}), max_tokens=12)
    found, expected = [await answered(e, context, QUESTION, sampling) for e in (engine, reference)]
    assert told(found) == told(expected)
    assert (found.finish_reason, len(found.pieces)) == ("length", 12)


async def test_answers_with_schemas_and_without_share_a_batch_and_the_prefix_cache(engine, reference, context):
    contexts = [context, await context_of(reference, picture(32), retention=0.5)]
    samplings = [held_to(schema) for schema in ENDING.values()] + [Sampling(16), Sampling(16, json_schema=None)]
    work = [(one, sampling) for one in contexts for sampling in samplings]
    alone = [told(await answered(reference, one, QUESTION, sampling)) for one, sampling in work]
    together = await asyncio.gather(*(answered(engine, one, QUESTION, sampling) for one, sampling in work))
    assert [told(one) for one in together] == alone
    again = await answered(engine, context, QUESTION, held_to(ENDING["object"]))
    assert again.pieces[-1].tier == "gpu"


async def test_sampled_answers_are_of_the_schema_and_repeatable(engine, context):
    async def sampled(seed: int) -> str:
        return (await answered(engine, context, QUESTION, held_to(ENDING["list"], temperature=2.0, seed=seed))).text

    texts = [await sampled(seed) for seed in range(5)]
    for text in texts:
        jsonschema.validate(json.loads(text), ENDING["list"])
    assert len(set(texts)) > 1
    assert [await sampled(seed) for seed in range(5)] == texts


async def test_an_answer_ends_by_the_tokenizers_end_where_the_model_names_others(engine, context, monkeypatch):
    monkeypatch.setattr(engine, "_end_ids", frozenset({5}))
    found = await answered(engine, context, QUESTION, held_to(ENDING["object"]))
    assert found.finish_reason == "stop"
    jsonschema.validate(json.loads(found.text), ENDING["object"])


@pytest.mark.parametrize("name", ["no JSON", "a keyword", "far away", "no end", "options", "deep", "a huge list"])
async def test_schemas_are_refused_alike_before_any_work(engine, reference, name):
    messages = []
    for e in (engine, reference):
        bench = Bench(e, MemoryStore(), PLAN)
        with pytest.raises(InvalidRequestError) as error:
            await bench.ask(b"no image", QUESTION, on_miss="compress", sampling=held_to(REFUSED[name][0]))
        messages.append((str(error.value), error.value.param))
    assert messages[0] == messages[1]
    assert messages[0][1] == "response_format"
    assert engine.queue_depth == 0


async def test_a_grammar_that_grows_too_complex_is_an_error_and_never_half_an_answer(engine, context):
    await engine.check_schema(GROWING)
    bench = Bench(engine, MemoryStore(), PLAN)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="its grammar grew too complex") as error:
            await bench.ask(png(31), QUESTION, sampling=held_to(GROWING))
        assert error.value.param == "response_format"
    found = await answered(engine, context, QUESTION, replace(held_to(ANY_OBJECT), max_tokens=8))
    assert found.text.startswith("{")
    assert engine.queue_depth == 0


async def test_a_schema_that_nobody_checked_is_refused_all_the_same(engine, reference, context):
    for e in (engine, reference):
        with pytest.raises(InvalidRequestError, match="Invalid type: strng"):
            await answered(e, context, QUESTION, held_to('{"type": "strng"}'))

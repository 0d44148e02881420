"""Answers that are JSON of a schema."""

import asyncio
import json
import math
import os
import re
import sys
from dataclasses import replace

import jsonschema
import psutil
import pytest
from transformers import ByT5Tokenizer

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.structured.grammar import Grammars
from lookonce_server.errors import EngineError, InvalidImageError, InvalidRequestError

from ....support.samples import GREEDY, png
from ....support.schemas import ANY_OBJECT, COLOR, ENDING, GROWING, REFUSED, an_object, nested

pytestmark = pytest.mark.anyio

QUESTION = "What is at the center?"
STRING = re.compile(r'"(\\.|[^"\\])*"')


def held_to(schema, max_tokens=80, **options) -> Sampling:
    return Sampling(max_tokens, json_schema=schema if isinstance(schema, str) else json.dumps(schema), **options)


@pytest.mark.parametrize("name", ENDING)
async def test_an_answer_is_json_of_the_schema(bench, name):
    for sampling in (held_to(ENDING[name]), *(held_to(ENDING[name], temperature=2.0, seed=seed) for seed in range(4))):
        asked = await bench.ask(png(1), QUESTION, sampling=sampling)
        assert asked.finish_reason == "stop"
        value = json.loads(asked.text)
        jsonschema.validate(value, ENDING[name])
        assert not re.search(r"\s", STRING.sub("", asked.text))


async def test_without_a_schema_nothing_is_json(bench):
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads((await bench.ask(png(1), QUESTION)).text)


async def test_hits_misses_and_questions_without_an_image_are_held_to_it(bench):
    schema = held_to(ENDING["object"])
    first = await bench.ask(png(1), QUESTION, sampling=schema)
    await bench.create(png(1))
    second = await bench.ask(png(1), QUESTION, sampling=schema)
    assert (first.lookup.cache, second.lookup.cache) == ("miss", "hit")
    assert list(json.loads(first.text)) == list(json.loads(second.text)) == ["color", "count"]


async def test_properties_come_in_the_schemas_order(bench):
    for names in ("abc", "cab"):
        asked = await bench.ask(png(1), QUESTION, sampling=held_to(an_object(**dict.fromkeys(names, COLOR))))
        assert list(json.loads(asked.text)) == list(names)


async def test_an_answer_that_is_cut_says_so(bench):
    asked = await bench.ask(png(1), QUESTION, sampling=held_to(an_object(text={"type": "string"}), max_tokens=12))
    assert (asked.finish_reason, len(asked.pieces)) == ("length", 12)
    assert asked.text.startswith('{"text":"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(asked.text)


async def test_a_stop_text_still_ends_an_answer(bench):
    asked = await bench.ask(png(1), QUESTION, sampling=held_to(ENDING["object"], stop=(",",)))
    assert asked.finish_reason == "stop"
    assert asked.text in {f'{{"color":"{color}"' for color in COLOR["enum"]}


async def test_several_answers_are_held_to_it_each_by_itself(bench):
    await bench.create(png(1))
    sampling = held_to(ENDING["list"], temperature=2.0, seed=3)
    together = await bench.ask_often(png(1), QUESTION, 4, sampling=sampling)
    alone = [await bench.ask(png(1), QUESTION, sampling=replace(sampling, seed=3 + i)) for i in range(4)]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in together}) > 1
    for one in together:
        jsonschema.validate(json.loads(one.text), ENDING["list"])


async def test_penalties_choose_among_what_the_schema_allows(bench):
    schema = {"type": "array", "items": COLOR, "minItems": 4, "maxItems": 4}
    plain = json.loads((await bench.ask(png(1), QUESTION, sampling=held_to(schema))).text)
    varied = json.loads(
        (await bench.ask(png(1), QUESTION, sampling=held_to(schema, presence_penalty=2.0, frequency_penalty=2.0))).text
    )
    assert len(varied) == 4
    assert len(set(varied)) > len(set(plain))


async def test_log_probabilities_are_among_the_tokens_that_the_schema_allows(bench):
    asked = await bench.ask(png(1), QUESTION, sampling=held_to(ENDING["alone"], logprobs=20))
    found = [piece.logprob for piece in asked.pieces]
    assert found.pop() is None  # of the end
    opening = found[0]
    assert 1 <= len(opening.top) < 20  # a quote, or more of the answer with it
    for one in found:
        assert all(value > -math.inf for _, value in one.top)
        assert math.fsum(math.exp(value) for _, value in one.top) == pytest.approx(1, abs=1e-4)
    assert found[-1].logprob == 0.0  # the closing quote, which nothing else can take the place of


async def test_an_answer_ends_by_the_tokenizers_end_where_the_model_names_others(bench, engine, monkeypatch):
    monkeypatch.setattr(engine, "_end_ids", frozenset({5}))
    asked = await bench.ask(png(1), QUESTION, sampling=held_to(ENDING["object"]))
    assert asked.finish_reason == "stop"
    jsonschema.validate(json.loads(asked.text), ENDING["object"])


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
async def test_a_schema_that_cannot_be_kept_to_is_refused_before_any_work(bench, name):
    schema, said = REFUSED[name]
    while bench.engine.queue_depth:  # noqa: ASYNC110  # what an earlier test left behind; it has no event
        await asyncio.sleep(0.01)
    with pytest.raises(InvalidRequestError) as error:
        await bench.ask(b"no image", QUESTION, on_miss="compress", sampling=held_to(schema))
    assert not isinstance(error.value, InvalidImageError)
    assert error.value.param == "response_format"
    assert str(error.value).startswith("The JSON Schema is not accepted: ")
    assert said in str(error.value)
    assert bench.engine.queue_depth == 0


async def test_schemas_at_the_limits_are_taken(engine):
    await engine.check_schema(json.dumps(nested(24)))
    await engine.check_schema(json.dumps({"const": "a" * 8192}))
    await engine.check_schema(json.dumps({"enum": [f"value {i}" for i in range(1000)]}))


async def test_a_grammar_that_grows_too_complex_is_an_error_and_never_half_an_answer(bench):
    await bench.engine.check_schema(GROWING)
    with pytest.raises(InvalidRequestError, match="items; max is 2000") as error:
        await bench.ask(png(1), QUESTION, sampling=held_to(GROWING))
    assert error.value.param == "response_format"
    assert "<state>" not in str(error.value)  # it would tell the answer
    assert (await bench.ask(png(1), QUESTION, sampling=GREEDY)).text  # and the engine goes on


async def test_a_schema_is_tried_out_once(engine, monkeypatch):
    known, new = (json.dumps(an_object(**{name: COLOR})) for name in ("known", "new"))
    await engine.check_schema(known)
    with pytest.raises(InvalidRequestError):
        await engine.check_schema(REFUSED["a keyword"][0])
    monkeypatch.setattr(sys, "executable", os.devnull)
    await engine.check_schema(known)
    with pytest.raises(InvalidRequestError):
        await engine.check_schema(REFUSED["a keyword"][0])
    with pytest.raises(EngineError, match="could not be tried out"):
        await engine.check_schema(new)
    monkeypatch.undo()
    await engine.check_schema(new)  # that it could not be tried was nothing of the schema's


async def test_a_trial_that_nobody_waits_for_is_ended(engine):
    before = set(psutil.Process().children())
    check = asyncio.create_task(engine.check_schema(json.dumps(an_object(left=COLOR))))
    while not set(psutil.Process().children()) - before:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    assert set(psutil.Process().children()) <= before


async def test_a_tokenizer_without_a_grammar_is_told_when_one_is_asked_for():
    grammars = Grammars(ByT5Tokenizer(), 300)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="not possible with this model's tokenizer: Only fast") as error:
            await grammars.check(ANY_OBJECT)
        assert error.value.param == "response_format"

"""What would give an answer from the wrong context: shown to be real without its guard, and impossible with it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from lookonce_cache import MemoryStore, QuantizedTensor, digest
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.prefix import TextCache
from lookonce_server.engines.vllm import context_prompts as contexts
from lookonce_server.engines.vllm import engine as vllm_engine
from lookonce_server.engines.vllm import options
from lookonce_server.engines.vllm.client import sampling_params
from lookonce_server.engines.vllm.connector.messages import Job
from lookonce_server.errors import ContextLostError, EngineError
from lookonce_server.images.sources import ImageBytes

from ..support.samples import GREEDY, PLAN, TENANT, Bench, about, picture, png, read
from .engines import answered, context_of, fully, start

pytestmark = pytest.mark.anyio

SEEDS = (51, 52, 53, 54)
QUESTION = "What is at the center?"
QUESTIONS = (QUESTION, "How many objects are there?", "Find the red object.")
LONG = 33  # a picture whose description fills a block
RETENTION = 0.5  # three full blocks of 32: contexts of equal length that vLLM's prefix cache holds


@pytest.fixture(scope="module")
async def unguarded(anyio_backend):
    """An engine whose connector has no guards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "CONNECTOR", "Unguarded")
        patch.setattr(options, "CONNECTOR_MODULE", "tests.vllm_engine.guards_off")
        engine = await start(CHECKPOINT)
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
async def made(reference):
    """Contexts of equal length, and the answers that are right for each."""
    made = [await context_of(reference, picture(seed), retention=RETENTION) for seed in SEEDS]
    right = [[(await answered(reference, context, q)).text for q in QUESTIONS] for context in made]
    assert len({context.tokens for context in made}) == 1
    assert len({tuple(answers) for answers in right}) == len(SEEDS)
    return made, right


async def answers(engine, made) -> list[list[str]]:
    return [[(await answered(engine, context, q)).text for q in QUESTIONS] for context in made]


@pytest.fixture
def without_salt(monkeypatch):
    """Prompts that begin with a context, without a salt."""

    def prompt(self, after):
        return {"prompt_token_ids": [0] * self.load.tokens + after}

    monkeypatch.setattr(contexts.AttachedContext, "prompt", prompt)


async def test_without_a_salt_contexts_mix(unguarded, made, without_salt):
    found, right = await answers(unguarded, made[0]), made[1]
    assert found[0] == right[0]
    assert found[1:] != right[1:]


async def test_a_context_without_a_salt_is_not_answered_from(engine, made, without_salt):
    for context in made[0]:
        with pytest.raises(ContextLostError):
            await answered(engine, context, QUESTION)


async def test_with_one_salt_for_all_contexts_mix(unguarded, made, monkeypatch):
    """What a client could do who chose the salt."""
    monkeypatch.setattr(contexts.ContextPrompts, "salt", lambda self, content: "chosen")
    assert (await answers(unguarded, made[0]))[1:] != made[1][1:]


async def test_with_their_salts_contexts_of_equal_length_stay_apart(engine, made):
    assert await answers(engine, made[0]) == made[1]
    assert await answers(engine, made[0]) == made[1]  # from vLLM's prefix cache


def two_of_one_id(made):
    """Two contexts that a store could give one after the other under one id."""
    return [made[0][3], replace(made[0][2], identity=made[0][3].identity)]


async def test_told_apart_by_their_ids_alone_two_makings_of_a_context_mix(unguarded, made, monkeypatch):
    monkeypatch.setattr(vllm_engine, "name_join", lambda join, texts, contexts: contexts[0].id)
    assert (await answers(unguarded, two_of_one_id(made)))[1] != made[1][2]


async def test_two_makings_of_a_context_stay_apart(engine, made):
    for _ in range(2):  # both are kept for the workers
        assert await answers(engine, two_of_one_id(made)) == [made[1][3], made[1][2]]


async def test_a_text_that_is_computed_again_makes_another_prompt(engine, made):
    """It may differ in a bit, as another making of the context may."""
    (context, *_), names = made[0], set()
    for _ in range(2):
        join, _ = engine._continue([context], about(QUESTION))
        names.add(contexts.name_join(join, [await engine._text_kv(span) for span in join.spans], [context]))
        engine._texts = TextCache()
    assert len(names) == 2


async def test_a_second_question_finds_the_context_with_the_workers(engine, made, monkeypatch):
    """It is neither dequantized nor written again: not even where vLLM has none of its blocks."""
    context = replace(made[0][0], identity=replace(made[0][0].identity, image_digest=digest(b"asked about twice")))
    dequantize, times = QuantizedTensor.dequantize, []

    def counting(self):
        times.append(self.role)
        return dequantize(self)

    monkeypatch.setattr(QuantizedTensor, "dequantize", counting)
    assert (await answered(engine, context, QUESTIONS[0])).text == made[1][0][0]
    assert sorted(times) == ["keys", "values"]
    files = set(engine._files.folder.iterdir())
    await engine._client._llm.reset_prefix_cache()
    assert (await answered(engine, context, QUESTIONS[1])).text == made[1][0][1]
    assert sorted(times) == ["keys", "values"]
    assert set(engine._files.folder.iterdir()) == files


async def test_a_kept_file_that_is_damaged_costs_one_answer(engine, made):
    assert await answers(engine, made[0][:1]) == made[1][:1]
    for path in engine._files.folder.iterdir():
        path.write_bytes(b"damaged")
    await engine._client._llm.reset_prefix_cache()
    with pytest.raises(ContextLostError):
        await answered(engine, made[0][0], QUESTION)
    assert await answers(engine, made[0][:1]) == made[1][:1]


def test_the_salt_is_a_secret_of_the_context(engine, made):
    one, other = contexts.ContextPrompts(None), contexts.ContextPrompts(None)
    assert one.salt("a") != one.salt("b")
    assert one.salt("a") != other.salt("a")
    assert one.salt("a") == one.salt("a")


async def ask_with_prompt_logprobs(engine, context) -> None:
    """A request that no caller of the engine can make."""
    join, _ = engine._continue([context], about(QUESTION))
    texts = [await engine._text_kv(span) for span in join.spans]
    combine = partial(engine._combine, join, texts, [context])
    name = contexts.name_join(join, texts, [context])
    async with engine._contexts.attach(name, join.layout.tokens, combine) as attached:
        params = sampling_params(Sampling(4), Job(attached.load))
        params.prompt_logprobs, params.skip_reading_prefix_cache = 1, True
        async for _ in engine._client.run(attached.prompt(join.after), params):
            pass


async def test_prompt_logprobs_poison_a_context_for_all_who_come_after(unguarded, reference):
    context = await context_of(reference, picture(61), retention=RETENTION)
    right = [(await answered(reference, context, q)).text for q in QUESTIONS]
    await ask_with_prompt_logprobs(unguarded, context)
    assert [(await answered(unguarded, context, q)).text for q in QUESTIONS] != right


async def test_prompt_logprobs_do_no_harm(engine, reference):
    context = await context_of(reference, picture(61), retention=RETENTION)
    right = [(await answered(reference, context, q)).text for q in QUESTIONS]
    await ask_with_prompt_logprobs(engine, context)
    assert [(await answered(engine, context, q)).text for q in QUESTIONS] == right


def test_no_caller_can_ask_for_them():
    params = sampling_params(Sampling(4, temperature=1.0, top_p=0.5, seed=1, logprobs=5), Job())
    assert params.prompt_logprobs is None
    assert not params.skip_reading_prefix_cache


@pytest.fixture
def losing(monkeypatch):
    """Have a context's file gone after it was looked up, before vLLM loads it."""

    def lose(engine, lost):
        share = engine._files.share

        @asynccontextmanager
        async def losing(content, tensors):
            async with share(content, tensors) as path:
                if content.startswith(lost.id):
                    path.unlink(missing_ok=True)
                yield path

        monkeypatch.setattr(engine._files, "share", losing)

    return lose


async def test_a_lost_context_is_answered_with_whatever_the_cache_holds(unguarded, reference, losing):
    context = await context_of(reference, picture(62), retention=RETENTION)
    right = [(await answered(reference, context, q)).text for q in QUESTIONS]
    losing(unguarded, context)
    assert [(await answered(unguarded, context, q)).text for q in QUESTIONS] != right


async def test_a_lost_context_is_an_error_and_harms_nobody(engine, made, reference, losing, monkeypatch):
    context = await context_of(reference, picture(62), retention=RETENTION)
    right = [(await answered(reference, context, q)).text for q in QUESTIONS]
    losing(engine, context)
    lost = [answered(engine, context, q) for q in QUESTIONS]
    found = await asyncio.gather(*lost, answers(engine, made[0]), return_exceptions=True)
    assert [type(one) for one in found[:-1]] == [ContextLostError] * len(QUESTIONS)
    assert found[-1] == made[1]
    monkeypatch.undo()
    assert [(await answered(engine, context, q)).text for q in QUESTIONS] == right  # and nothing of it was kept


async def test_the_full_pass_answers_for_a_lost_context_when_the_image_is_at_hand(engine, losing):
    bench = Bench(engine, MemoryStore(), replace(PLAN, retention=RETENTION))
    image = png(62)
    context = await bench.create(image)
    hit = await bench.ask(image, QUESTION)
    assert (hit.lookup.cache, hit.lookup.tier) == ("hit", "memory")
    losing(engine, context)
    found = await bench.ask(image, QUESTION)
    assert (found.lookup.cache, found.lookup.tier) == ("miss", None)
    assert found.text == (await fully(engine, picture(62), QUESTION)).text
    assert bench.counted("context_lost_total") == 1
    with pytest.raises(ContextLostError, match="lost before it could be used"):
        await bench.ask(context.id, QUESTION)
    assert bench.counted("describes_total", result="done") == 1  # it is still in the store
    assert engine.queue_depth == 0


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_of_several_answers_none_is_from_a_lost_context(engine, losing, lost, monkeypatch):
    """One of three answers to a question finds its context gone: all three are answered by the full pass."""
    bench = Bench(engine, MemoryStore(), replace(PLAN, retention=RETENTION))
    await bench.create(png(64))
    passes, answer = iter(range(100)), engine.answer

    async def losing_one(*arguments):
        if next(passes) == lost:
            raise ContextLostError("lost")
        async for event in answer(*arguments):
            yield event

    monkeypatch.setattr(engine, "answer", losing_one)
    session = await bench.sessions.ask(about(QUESTION), [ImageBytes(png(64), "image")], GREEDY, tenant=TENANT, n=3)
    whole = (await fully(engine, picture(64), QUESTION)).text
    assert session.lookup.cache == "miss"
    assert [(await read(one)).text for one in session.answers] == [whole] * 3
    assert engine.queue_depth == 0


async def test_a_spool_without_room_is_a_lost_context(engine, made, monkeypatch):
    def full(tensors, path):
        raise OSError(28, "No space left on device")

    engine._files.drop_idle()
    monkeypatch.setattr("lookonce_server.engines.vllm.connector.files.save_file", full)
    with pytest.raises(ContextLostError, match="No space left"):
        await answered(engine, made[0][0], QUESTION)
    monkeypatch.undo()
    assert (await answered(engine, made[0][0], QUESTION)).text == made[1][0][0]


async def test_rows_that_are_found_in_the_prefix_cache_give_wrong_scores(unguarded, reference):
    """The description's blocks are there since it was generated, and nothing hides them here."""
    made, right = [await context_of(e, picture(LONG)) for e in (unguarded, reference)]
    assert made.description == right.description
    assert (made.scores - right.scores).abs().max() > 1e-3


async def test_an_incomplete_capture_is_an_error(unguarded):
    with pytest.raises(EngineError, match="captured from token"):
        await unguarded.describe(picture(LONG), replace(PLAN, retention=1.0), TENANT)


async def test_rows_that_score_are_hidden_from_the_prefix_cache(engine, reference):
    made, right = [await context_of(e, picture(LONG)) for e in (engine, reference)]
    assert torch.equal(made.kept_indices, right.kept_indices)
    torch.testing.assert_close(made.scores, right.scores, atol=1e-4, rtol=0)

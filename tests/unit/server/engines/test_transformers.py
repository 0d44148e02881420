"""The embedded engine: what a context answers, that passes do not disturb each other, and what is not run on a hit."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace

import pytest
import torch

from lookonce_cache import MemoryStore
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.errors import PromptTooLongError

from ....support.engine_bounds import check_bounds
from ....support.samples import EVERYTHING, GREEDY, PLAN, PROMPT, TENANT, about, picture, png, read

pytestmark = pytest.mark.anyio

LOGPROBS = replace(GREEDY, logprobs=1)
QUESTIONS = ("How many objects are there?", "What is at the center?", "Find the red object.", "Is there a star?")


@pytest.fixture
def context_of(bench_with):
    """The context of a picture, made by the engine itself."""

    async def make(seed: int, plan=PLAN):
        return await bench_with(MemoryStore(), plan).create(png(seed))

    return make


@contextlib.contextmanager
def calls_of(module: torch.nn.Module):
    """A list that grows by one with every call of a module."""
    calls: list[int] = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        handle.remove()


def same_description(a, b) -> bool:
    tensors = ((a.keys, b.keys), (a.values, b.values), (a.scores, b.scores), (a.kept, b.kept))
    return a.text == b.text and all(torch.equal(x, y) for x, y in tensors)


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_with_everything_kept_an_answer_is_the_full_passs_token_for_token(engine, context_of, seed, question):
    context = await context_of(seed, EVERYTHING)
    assert context.tokens == context.full_tokens
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (question,)))
    full = await read(engine.full(Conversation(turns), [picture(seed)], GREEDY, TENANT))
    found = await read(engine.answer([context], about(question), GREEDY))
    assert found.pieces == full.pieces
    assert found.started.prompt_tokens == full.started.prompt_tokens


@pytest.mark.parametrize("prompt", ["What is at the top left of the picture?", "lookonce:description", " "])
async def test_an_answer_goes_on_after_the_prompt_that_its_context_was_made_with(engine, context_of, prompt):
    """Another one than the self-check's: the tokens before the image are the same after it."""
    context = await context_of(11, replace(EVERYTHING, prompt=prompt))
    turns = (Turn("user", (0, prompt)), Turn("assistant", ()), Turn("user", (QUESTIONS[2],)))
    full = await read(engine.full(Conversation(turns), [picture(11)], LOGPROBS, TENANT))
    found = await read(engine.answer([context], about(QUESTIONS[2]), LOGPROBS))
    assert found.text == full.text
    assert found.started.prompt_tokens == full.started.prompt_tokens
    for one, other in zip(found.pieces[:-1], full.pieces[:-1], strict=True):
        assert abs(one.logprob.logprob - other.logprob.logprob) < 1e-3


async def test_a_description_is_heard_as_it_is_made(engine):
    heard = []
    description = await engine.describe(picture(11), PLAN, TENANT, heard.append)
    assert heard[0] == ""
    assert len(heard) > 5
    assert "".join(heard).strip() == description.text


async def test_an_answer_counts_what_it_ran_and_what_a_full_pass_would_have(engine, context_of):
    context = await context_of(11)
    found = await read(engine.answer([context], about(QUESTIONS[0]), GREEDY))
    full = await read(engine.full(about(QUESTIONS[0]), [picture(11)], GREEDY, TENANT))
    assert context.kept_tokens == 10  # 5% of 196
    assert context.tokens == context.full_tokens - 196 + 10
    assert found.started.prompt_tokens - found.started.computed_tokens == context.tokens
    assert found.started.full_prompt_tokens == full.started.full_prompt_tokens == full.started.computed_tokens
    assert found.started.computed_tokens < 20 < 196 < full.started.computed_tokens


async def test_the_image_is_encoded_on_a_miss_and_never_on_a_hit(engine, loaded, bench):
    tower = loaded.model.model.vision_tower
    with calls_of(tower) as calls:
        miss = await bench.ask(png(21), QUESTIONS[0])
        await bench.settle()
        assert len(calls) == 2  # the full pass, and the describe pass behind it
        hit = await bench.ask(png(21), QUESTIONS[0])
        named = await bench.ask(miss.lookup.context_id, QUESTIONS[0])
    assert len(calls) == 2
    assert (miss.lookup.cache, hit.lookup.cache, named.lookup.cache) == ("miss", "hit", "hit")


async def test_without_an_image_no_image_is_encoded(engine, loaded):
    with calls_of(loaded.model.model.vision_tower) as calls:
        answer = await read(engine.full(Conversation((Turn("user", ("Hello",)),)), [], GREEDY, TENANT))
    assert answer.finish_reason
    assert not calls


async def test_passes_that_take_turns_give_what_each_gives_alone(engine, context_of):
    contexts = [await context_of(seed) for seed in (31, 32)]

    def passes():
        return [
            engine.describe(picture(33), PLAN, TENANT),
            engine.describe(picture(34), replace(PLAN, rows="both", window=(0, 8)), TENANT),
            read(engine.answer([contexts[0]], about(QUESTIONS[2]), GREEDY)),
            read(engine.answer([contexts[1]], about(QUESTIONS[2]), GREEDY)),
            read(engine.full(about(QUESTIONS[1]), [picture(35)], GREEDY, TENANT)),
        ]

    alone = [await work for work in passes()]
    together = await asyncio.gather(*passes())
    assert all(same_description(a, b) for a, b in zip(alone[:2], together[:2], strict=True))
    assert alone[2:] == together[2:]


async def test_a_context_is_the_same_after_it_was_answered_from(engine, context_of):
    context = await context_of(31)
    before = context.keys.dequantize().clone(), context.values.dequantize().clone()
    first, second = [await read(engine.answer([context], about(QUESTIONS[2]), GREEDY)) for _ in range(2)]
    assert first == second
    assert torch.equal(context.keys.dequantize(), before[0])
    assert torch.equal(context.values.dequantize(), before[1])


async def test_the_model_attends_as_before_once_it_described(engine, loaded):
    before = loaded.model.config.get_text_config()._attn_implementation
    await engine.describe(picture(36), PLAN, TENANT)
    assert loaded.model.config.get_text_config()._attn_implementation == before


async def test_an_answer_closed_early_ends_its_pass(engine, context_of):
    answer = engine.answer([await context_of(31)], about(QUESTIONS[2]), GREEDY)
    await anext(answer)
    await anext(answer)
    await answer.aclose()
    async with asyncio.timeout(30):
        while engine.queue_depth:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.001)


async def test_seeded_sampling_repeats(engine, context_of):
    context = await context_of(31)
    sampling = Sampling(12, temperature=1.5, seed=5)
    answers = [await read(engine.answer([context], about(QUESTIONS[2]), sampling)) for _ in range(2)]
    assert answers[0] == answers[1]


# --- what it says of its tokens, against the model itself -------------------------------------------------------------


def model_inputs(loaded, conversation: Conversation, image=None) -> dict[str, torch.Tensor]:
    """The prompt as transformers makes it."""
    text = loaded.processor.apply_chat_template(conversation.as_messages(), add_generation_prompt=True)
    return dict(loaded.processor(text=text, images=image, return_tensors="pt", add_special_tokens=False))


def forward(loaded, inputs: dict[str, torch.Tensor], after: list[int]) -> torch.Tensor:
    """The logits of each token of `after` and of the one that comes next, by one forward without a cache."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([after], dtype=torch.long)], 1)
    inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
    with torch.no_grad():
        logits = loaded.model(**inputs | {"input_ids": ids}, use_cache=False).logits
    return logits[0, -len(after) - 1 :].float()


@pytest.mark.parametrize("from_context", [True, False])
async def test_log_probabilities_are_the_models(engine, loaded, context_of, from_context):
    question = PROMPT
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (question,)))
    sampling = replace(GREEDY, temperature=1.5, seed=3, logprobs=4, presence_penalty=1.0)
    if from_context:
        found = await read(engine.answer([await context_of(12, EVERYTHING)], about(question), sampling))
    else:
        found = await read(engine.full(Conversation(turns), [picture(12)], sampling, TENANT))
    listed = [piece.logprob for piece in found.pieces]
    assert listed.pop() is None  # of the end
    assert len(listed) > 5
    tokens = [one.token for one in listed]
    expected = forward(loaded, model_inputs(loaded, Conversation(turns), picture(12)), tokens).log_softmax(-1)
    for one, row in zip(listed, expected, strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-3)
        top = row.topk(4)
        assert [token for token, _ in one.top] == top.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(top.values.tolist(), abs=1e-3)


@pytest.mark.parametrize(("presence", "frequency"), [(0.0, 0.0), (1.5, 0.0), (0.0, 0.5), (-2.0, 1.0), (2.0, 2.0)])
async def test_greedy_answers_with_penalties_are_the_penalised_models(engine, loaded, presence, frequency):
    conversation = Conversation((Turn("user", ("xyzzy",)),))
    end = loaded.processor.tokenizer.eos_token_id
    sampling = replace(
        GREEDY, logit_bias=((end, -100.0),), presence_penalty=presence, frequency_penalty=frequency, max_tokens=12
    )
    inputs, said = model_inputs(loaded, conversation), []
    while len(said) < sampling.max_tokens:
        logits = forward(loaded, inputs, said)[-1]
        logits[end] -= 100
        for token, count in Counter(said).items():
            logits[token] -= frequency * count + presence
        said.append(int(logits.argmax()))
    found = await read(engine.full(conversation, [], sampling, TENANT))
    assert found.text == loaded.processor.tokenizer.decode(said, skip_special_tokens=True)
    assert len(found.pieces) == len(said)


async def test_penalties_change_an_answer(engine):
    conversation = Conversation((Turn("user", ("xyzzy",)),))
    endless = replace(GREEDY, logit_bias=((2, -100.0),))
    options = ({}, {"presence_penalty": -2.0}, {"frequency_penalty": 0.5}, {"frequency_penalty": 2.0})
    texts = [(await read(engine.full(conversation, [], replace(endless, **one), TENANT))).text for one in options]
    assert len(set(texts)) == len(options), texts


async def test_a_prompt_beyond_the_model_is_refused(engine, context_of):
    context, words = await context_of(31), "red " * 4096
    for answer in (
        engine.answer([context], about(words), GREEDY),
        engine.full(about(words), [picture(31)], GREEDY, TENANT),
        engine.full(Conversation((Turn("user", (words,)),)), [], GREEDY, TENANT),
    ):
        with pytest.raises(
            PromptTooLongError, match=r"^This model's maximum context length is 4096 tokens\. "
        ) as caught:
            await anext(answer)
        assert caught.value.param == "messages"
        assert caught.value.code == "context_length_exceeded"


async def test_an_answer_is_shortened_to_the_room_that_is_left(engine):
    conversation = Conversation((Turn("user", ("red " * 4085,)),))
    prompt = (await anext(engine.full(conversation, [], Sampling(100), TENANT))).prompt_tokens
    assert 4088 <= prompt < 4096
    answer = await read(engine.full(conversation, [], Sampling(100), TENANT))
    assert len(answer.pieces) <= 4096 - prompt


async def test_a_full_queue_refuses_every_kind_of_pass(loaded, context_of):
    context = await context_of(31)
    engine = TransformersEngine(loaded, max_running=1)
    try:
        await check_bounds(engine, context, engine._scheduler.admission)
    finally:
        await engine.close()


async def test_facts_name_the_model(engine, loaded):
    facts = engine.facts
    assert (facts.num_layers, facts.max_tokens) == (8, 4096)
    assert facts.fingerprint == loaded.fingerprint
    assert len(facts.fingerprint) == len(engine.template_digest(PROMPT)) == 64

"""Models with recurrent layers: states are kept whole, and keys and values pruned in the attention layers alone.

The reference is the model itself, its attention eager: the describe prompt is run whole, the rows of the image tokens
that were not kept are deleted from the attention layers' caches, the states stay, and what follows the describe turn is
run at its original positions.
"""

import asyncio
import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import DynamicCache

from lookonce_cache import CompressedContext, MemoryStore, decode, encode
from lookonce_evaluation.model import EvalModel
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.selfcheck import check_model, find_join_problem
from lookonce_server.errors import ContextLostError, EngineError, ModelRefusedError
from lookonce_server.sessions.context_builder import context_identity, context_of
from lookonce_server.settings import Settings

from ....support.families import processed
from ....support.hybrids import ATTENTION, HYBRIDS, LAYERS
from ....support.samples import PLAN, PROMPT, TENANT, Asked, Bench, about, picture, png, read

pytestmark = pytest.mark.anyio

QUESTION = "What color is it?"
WHOLE = replace(PLAN, window=(0, ATTENTION), max_tokens=4, retention=1.0)
QUARTER = replace(WHOLE, retention=0.25)
LOGPROBS = Sampling(8, logprobs=0)


@cache
def loaded_model(family: str) -> LoadedModel:
    return HYBRIDS[family]()


@pytest.fixture(params=HYBRIDS)
def hybrid(request) -> LoadedModel:
    return loaded_model(request.param)


@pytest.fixture
def hybrid_engine(hybrid) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(hybrid)
    engine.facts = replace(engine.facts, unjoinable=find_join_problem(hybrid, PROMPT))
    yield engine
    asyncio.run(engine.close())


async def described(engine: TransformersEngine, plan=QUARTER, seed: int = 11, precision="native") -> CompressedContext:
    """The context of a picture, after a way through the store's bytes."""
    description = await engine.describe(picture(seed), plan, TENANT)
    identity = context_identity(TENANT, b"", engine.facts, plan, description.template_digest, precision)
    context = context_of(identity, description)
    return decode(encode(context), context.key)


async def ask(engine: TransformersEngine, context: CompressedContext, conversation=None) -> Asked:
    return await read(engine.answer([context], conversation or about(QUESTION), LOGPROBS))


def logprobs(answer: Asked) -> list[tuple[int, float]]:
    return [(piece.logprob.token, piece.logprob.logprob) for piece in answer.pieces if piece.logprob is not None]


def assert_close(found: Asked, expected: Asked) -> None:
    assert len(logprobs(found)) >= 4
    for (token, value), (expected_token, expected_value) in zip(logprobs(found), logprobs(expected), strict=True):
        assert token == expected_token
        assert abs(value - expected_value) < 1e-4


async def test_answers_from_contexts_equal_plain_transformers(hybrid, hybrid_engine):
    check_model(hybrid, PROMPT)
    assert hybrid_engine.facts.num_layers == ATTENTION
    for plan in (WHOLE, QUARTER):
        context = await described(hybrid_engine, plan)
        assert context.keys.shape[0] == ATTENTION
        assert {state.shape[0] for state in context.states.values()} == {LAYERS - ATTENTION}
        found = logprobs(await ask(hybrid_engine, context))
        assert len(found) >= 4
        expected = plain_logprobs(hybrid, context.kept_indices, [token for token, _ in found])
        for (token, value), row in zip(found, expected, strict=True):
            assert token == int(row.argmax())
            assert abs(value - float(row[token])) < 1e-4


@torch.inference_mode()
def plain_logprobs(loaded: LoadedModel, kept: torch.Tensor, answer: list[int]) -> torch.Tensor:
    """The log-probabilities of each token of an answer, [tokens, vocabulary]."""
    model = copy.deepcopy(loaded.model)
    model.set_attn_implementation("eager")
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,)))
    prompt = processed(loaded.processor, turns[:1], picture(11))
    length = prompt["input_ids"].shape[1]
    after = processed(loaded.processor, turns, picture(11))["input_ids"][:, length:]
    cache = DynamicCache(config=model.config)
    model(**prompt, past_key_values=cache, use_cache=True)
    is_image = prompt["input_ids"][0] == loaded.model.config.image_token_id
    rows = (~is_image).nonzero().flatten().tolist() + is_image.nonzero().flatten()[kept[0].long()].tolist()
    for layer in cache.layers:
        if hasattr(layer, "keys"):
            layer.keys, layer.values = layer.keys[:, :, sorted(rows)], layer.values[:, :, sorted(rows)]
    deltas = getattr(model.model, "rope_deltas", None)
    first = length + (0 if deltas is None else int(deltas[0]))
    ids = torch.cat([after, torch.tensor([answer[:-1]], dtype=torch.int64)], dim=1)
    positions = torch.arange(first, first + ids.shape[1])[None]
    if deltas is not None:
        positions = positions.expand(3, 1, -1)
    output = model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    return output.logits[0, -len(answer) :].log_softmax(dim=-1)


@pytest.mark.parametrize(
    "asked",
    [
        (Turn("user", (0, QUESTION)),),
        (Turn("system", ("Answer in one word.",)), Turn("user", ("hello", 0, QUESTION))),
        (Turn("user", ("hello",)), Turn("assistant", ("Hello!",)), Turn("user", (0, QUESTION))),
        (Turn("user", (0, "What is it?")), Turn("assistant", ("a red circle",)), Turn("user", (QUESTION,))),
    ],
    ids=["question", "system", "text before the image", "later question"],
)
async def test_with_everything_kept_a_conversation_goes_on_as_in_a_full_pass(hybrid_engine, asked):
    """A state holds all that was said before, so what was said before the image follows the describe turn too."""
    conversation = Conversation(asked)
    after = [Turn(one["role"], tuple(part["text"] for part in one["content"])) for one in conversation.after_images()]
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), *after)
    full = await read(hybrid_engine.full(Conversation(turns), [picture(11)], LOGPROBS, TENANT))
    assert_close(await ask(hybrid_engine, await described(hybrid_engine, WHOLE), conversation), full)


async def test_answers_at_once_share_no_state(hybrid_engine):
    one, other = await described(hybrid_engine), await described(hybrid_engine, seed=12)
    states = {name: state.clone() for name, state in one.states.items()}
    questions = [about(text) for text in (QUESTION, "What is it? hello world", QUESTION)]
    alone = [await ask(hybrid_engine, context, asked) for context in (one, other) for asked in questions]
    *together, _ = await asyncio.gather(
        *(ask(hybrid_engine, context, asked) for context in (one, other) for asked in questions),
        described(hybrid_engine, seed=13),
    )
    for found, expected in zip(together, alone, strict=True):
        assert found.pieces == expected.pieces
    assert all(torch.equal(one.states[name], state) for name, state in states.items())


async def test_another_image_has_other_states_and_they_count(hybrid_engine):
    one, other = await described(hybrid_engine), await described(hybrid_engine, seed=12)
    right, wrong = await ask(hybrid_engine, one), await ask(hybrid_engine, replace(one, states=other.states))
    assert any(abs(a - b) > 1e-3 for (_, a), (_, b) in zip(logprobs(right), logprobs(wrong), strict=False))


async def test_a_context_without_the_models_states_is_not_answered_from(hybrid_engine):
    context = await described(hybrid_engine)
    name, state = next(iter(context.states.items()))
    for states in ({}, {name: state[1:]}, {name: state.half()}, {**context.states, "other": state}):
        with pytest.raises(ContextLostError, match="has the recurrent states"):
            await ask(hybrid_engine, replace(context, states=states))


async def test_states_are_kept_as_the_model_has_them_in_every_precision(hybrid_engine):
    native, small = await described(hybrid_engine), await described(hybrid_engine, precision="int4")
    assert small.keys.nbytes < native.keys.nbytes
    for name, state in native.states.items():
        assert torch.equal(small.states[name], state)
    assert len((await ask(hybrid_engine, small)).pieces) >= 4


async def test_two_images_are_answered_by_a_full_pass(hybrid, hybrid_engine):
    with pytest.raises(EngineError, match=r"one context at a time. 6 of its 8 layers are recurrent"):
        await read(hybrid_engine.answer([await described(hybrid_engine)] * 2, about(QUESTION, 2), LOGPROBS))
    bench = Bench(hybrid_engine, MemoryStore(), QUARTER)
    for seed in (11, 12):
        await bench.create(png(seed))
    (found,) = await bench.ask_about([png(11), png(12)], QUESTION, sampling=LOGPROBS)
    full = await read(hybrid_engine.full(about(QUESTION, 2), [picture(11), picture(12)], LOGPROBS, TENANT))
    assert found.pieces == full.pieces


async def test_a_checkpoint_is_loaded_checked_and_served_in_bfloat16(hybrid, tmp_path):
    hybrid.model.save_pretrained(tmp_path)
    hybrid.processor.save_pretrained(tmp_path)
    options = {"dtype": torch.bfloat16, "device": "cpu", "describe_prompt": PROMPT}
    engine = await TransformersEngine.load(str(tmp_path), **options)
    try:
        assert engine.facts.num_layers == ATTENTION
        assert engine.facts.unjoinable.startswith("6 of its 8 layers are recurrent: ")
        context = await described(engine)
        dtypes = {"conv": torch.bfloat16, "recurrent": torch.float32}
        assert {name: state.dtype for name, state in context.states.items()}.items() <= dtypes.items()
        assert len((await ask(engine, context)).pieces) >= 4
    finally:
        await engine.close()
    with pytest.raises(ModelRefusedError, match="6 of the model's layers are recurrent"):
        EvalModel.load(str(tmp_path), Settings())


def test_a_model_whose_states_are_lost_is_refused(hybrid, monkeypatch):
    """The self-check looks at them: with those of an empty prompt an answer differs from the full pass."""
    from lookonce_server.engines.transformers import model

    def forgotten(cache, config, states):
        set_states(cache, config, {name: torch.zeros_like(state) for name, state in states.items()})

    set_states = model.set_states
    monkeypatch.setattr(model, "set_states", forgotten)
    with pytest.raises(ModelRefusedError, match="an answer from a context differs from"):
        check_model(hybrid, PROMPT)

"""Answers that are decoded together: each is what it is alone, and no other suffers from one that fails or leaves."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
import torch

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.structured import grammar
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.batch import Extension, RunningSequence, SequenceBatch
from lookonce_server.engines.transformers.model import ModelRunner
from lookonce_server.engines.transformers.selfcheck import find_batch_problem
from lookonce_server.errors import EngineError
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.hybrids import lfm2_vl
from ....support.samples import PLAN, PROMPT, TENANT, Asked, about, picture, read
from ....support.sliding_windows import gemma3
from ....support.tiny_models import built

pytestmark = pytest.mark.anyio

QUESTION = "What is there?"
LOGPROBS = Sampling(12, logprobs=2)
SCHEMA = '{"type": "object", "properties": {"red": {"type": "boolean"}}, "required": ["red"]}'
SAMPLINGS = (
    LOGPROBS,
    replace(LOGPROBS, max_tokens=3),
    replace(LOGPROBS, temperature=1.2, seed=1),
    replace(LOGPROBS, temperature=1.2, seed=2, top_k=40, top_p=0.9),
    replace(LOGPROBS, presence_penalty=1.5, frequency_penalty=0.5),
    replace(LOGPROBS, logit_bias=((5, 100.0),), max_tokens=6),
    replace(LOGPROBS, stop=("e",)),
    replace(LOGPROBS, json_schema=SCHEMA, max_tokens=24),
)


async def described(engine, seed: int, retention: float):
    """A picture's context."""
    layers = engine.facts.num_layers
    plan = replace(PLAN, window=(layers // 4, 3 * layers // 4), retention=retention, max_tokens=4)
    description = await engine.describe(picture(seed), plan, TENANT)
    return context_of(
        context_identity(TENANT, b"", engine.facts, plan, description.template_digest, "native"), description
    )


@contextlib.contextmanager
def widths_of(model: torch.nn.Module):
    """The number of tokens of each forward pass."""
    widths: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield widths
    finally:
        handle.remove()


def assert_same(found: Asked, expected: Asked) -> None:
    """Token for token, and the log-probabilities within what a sum in another order rounds."""
    bare = [[piece._replace(logprob=None) for piece in answer.pieces] for answer in (found, expected)]
    assert bare[0] == bare[1]
    for one, other in zip(found.pieces, expected.pieces, strict=True):
        assert (one.logprob is None) == (other.logprob is None)
        if one.logprob is not None:
            assert one.logprob.token == other.logprob.token
            assert one.logprob.logprob == pytest.approx(other.logprob.logprob, abs=1e-4)
            assert [pair[1] for pair in one.logprob.top] == pytest.approx([p[1] for p in other.logprob.top], abs=1e-4)


async def test_answers_at_once_are_what_each_is_alone(rope_engine):
    """Contexts of several lengths, two images, full passes, and each request's own way to pick tokens."""
    engine = rope_engine
    contexts = [await described(engine, seed, retention) for seed, retention in ((11, 0.1), (12, 0.5), (13, 1.0))]

    def asked() -> list:
        answers = [engine.answer([contexts[i % 3]], about(QUESTION), sampling) for i, sampling in enumerate(SAMPLINGS)]
        answers.append(engine.answer(contexts[:2], about("What color is it? " * 3, 2), LOGPROBS))
        answers.append(engine.full(about(QUESTION), [picture(14)], LOGPROBS, TENANT))
        answers.append(engine.answer([contexts[0]], about("What color is it? " * 40), LOGPROBS))  # joins later
        return [read(answer) for answer in answers]

    with widths_of(engine._runner.model) as alone_widths:
        alone = [await answer for answer in asked()]
    with widths_of(engine._runner.model) as widths:
        together = await asyncio.gather(*asked())
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
    assert len(widths) < len(alone_widths) / 2
    assert not engine._batch._members
    assert not len(engine._batch._owners)


async def test_an_answer_that_is_left_frees_its_row_and_the_others_go_on(engine):
    contexts = [await described(engine, seed, 0.1) for seed in (11, 12, 13)]
    expected = [await read(engine.answer([context], about("Describe the image."), LOGPROBS)) for context in contexts]
    left = engine.answer([contexts[0]], about("Describe the image."), replace(LOGPROBS, max_tokens=2000))
    others = [
        asyncio.ensure_future(read(engine.answer([one], about("Describe the image."), LOGPROBS)))
        for one in contexts[1:]
    ]
    await anext(left)
    await anext(left)
    await left.aclose()
    for found, right in zip(await asyncio.gather(*others), expected[1:], strict=True):
        assert_same(found, right)
    await read(engine.answer([contexts[0]], about("Describe the image."), LOGPROBS))  # a turn behind all that was left
    assert not engine._batch._members


def sequences(runner: ModelRunner, *texts: list[int]) -> list[RunningSequence]:
    states = [runner.prefill_text(text) for text in texts]
    return [RunningSequence(state.cache, state.next_position) for state in states]


def test_sequences_join_and_leave_a_batch_between_steps():
    """A batch has the columns of its members alone, and each goes on as it does alone, whoever comes and goes."""
    runner = ModelRunner(built("qwen2-vl").model)
    texts = [[1, 9, 10], [11], [12, 13, 14, 15, 16]]
    batch = SequenceBatch(runner)
    alone, members = sequences(runner, *texts), sequences(runner, *texts)
    steps = ([0, 1], [0, 1, 2], [1, 2], [2], [2, 1], [1])  # who takes part; 0 leaves, the others pause
    for number, present in enumerate(steps):
        ids = {i: [20 + number, 30 + i][: 1 + i % 2] for i in present}
        if 0 not in present:
            batch.remove(members[0])
        found = batch.extend([Extension(members[i], ids[i]) for i in present])
        for i, logits in zip(present, found, strict=True):
            state = runner.extend(alone[i].cache, alone[i].next_position, torch.tensor([ids[i]]))
            alone[i].next_position = state.next_position
            torch.testing.assert_close(logits, state.logits, atol=1e-4, rtol=0)
            assert members[i].next_position == state.next_position
        if len(present) > 1:
            lengths = [alone[i].cache.get_seq_length() for i in present]
            assert len(batch._owners) == batch._cache.get_seq_length() == sum(lengths)
    assert list(batch._members) == [members[2]]  # it pauses; the others have left, or run alone
    batch.remove(members[2])
    assert not len(batch._owners)


def test_a_sequence_that_is_not_numbers_spoils_no_other(loaded):
    """What a mask hides counts for nothing, unless it is no number: zero times it is none either."""
    runner = ModelRunner(loaded.model)
    batch = SequenceBatch(runner)
    one, other, reference = sequences(runner, [5, 6, 7], [8, 9], [5, 6, 7])
    other.cache.layers[0].values = torch.full_like(other.cache.layers[0].values, torch.nan)
    for token in (10, 11):
        found, spoilt = batch.extend([Extension(one, [token]), Extension(other, [token])])
        (right,) = batch.extend([Extension(reference, [token])])
        assert spoilt.isnan().any()
        torch.testing.assert_close(found, right)
    assert other.runs_alone
    assert not one.runs_alone


async def test_a_batch_that_fails_goes_on_one_by_one(loaded, engine, monkeypatch, caplog):
    """As where the memory is enough for each answer, and not for all."""
    contexts = [await described(engine, seed, 0.1) for seed in (11, 12)]
    expected = [await read(engine.answer([context], about(QUESTION), LOGPROBS)) for context in contexts]
    forward = loaded.model.model.language_model.layers[3].forward

    def fail(hidden_states, *args, attention_mask=None, **options):
        if attention_mask is not None and hidden_states.shape[1] == 2:  # the batch's second step, half of it done
            raise torch.OutOfMemoryError("as on a GPU")
        return forward(hidden_states, *args, attention_mask=attention_mask, **options)

    monkeypatch.setattr(loaded.model.model.language_model.layers[3], "forward", fail)
    answers = (read(engine.answer([context], about(QUESTION), LOGPROBS)) for context in contexts)
    for found, right in zip(await asyncio.gather(*answers), expected, strict=True):
        assert_same(found, right)
    assert "a batch of 2 answers failed; each goes on by itself" in caplog.text


async def test_a_request_that_fails_ends_alone(engine, monkeypatch):
    context = await described(engine, 11, 0.1)
    expected = await read(engine.answer([context], about(QUESTION), LOGPROBS))
    monkeypatch.setattr(grammar.Grammar, "mask", lambda self, logits: 1 / 0)
    failing = read(engine.answer([context], about(QUESTION), replace(LOGPROBS, json_schema=SCHEMA)))
    failed, found = await asyncio.gather(
        failing, read(engine.answer([context], about(QUESTION), LOGPROBS)), return_exceptions=True
    )
    assert isinstance(failed, EngineError)
    assert_same(found, expected)


async def test_models_whose_layers_do_not_allow_it_answer_one_by_one():
    for loaded, reason in ((lfm2_vl(), "6 of its layers are recurrent"), (gemma3(), "not all of its layers see all")):
        assert find_batch_problem(loaded, PROMPT).startswith(reason)
        engine = TransformersEngine(loaded)
        try:
            assert engine._batch is None
        finally:
            await engine.close()


def test_a_model_that_a_batch_changes_answers_one_by_one(loaded, monkeypatch):
    """As one would that makes its mask itself."""
    assert find_batch_problem(loaded, PROMPT) is None
    forward = loaded.model.forward
    monkeypatch.setattr(loaded.model, "forward", lambda attention_mask=None, **inputs: forward(**inputs))
    assert "in a batch the logits differ by" in find_batch_problem(loaded, PROMPT)
    monkeypatch.setattr(loaded.model, "forward", lambda **inputs: 1 / 0)
    assert "a batch could not be checked: ZeroDivisionError" in find_batch_problem(loaded, PROMPT)

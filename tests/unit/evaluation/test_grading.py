"""The grader's one pass gives the verdict that the engine's own decoding would."""

import asyncio
from functools import partial

import pytest
import torch

from lookonce_cache import DEFAULT_TENANT
from lookonce_evaluation.dataset import held_out
from lookonce_pruning import get_selection, kept_count, parse_window
from lookonce_scenes.questions import Question
from lookonce_server.engines.base import DescribePlan
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel

CASES = held_out(3, 600_000_000)


def about(question: Question) -> Conversation:
    return Conversation((Turn("user", question.text, has_image=True),))


def decoded(subject, state, limit: int) -> list[int]:
    """Greedy decoding, token by token; at most `limit` of them."""
    said = []
    while len(said) < limit:
        said.append(int(state.logits.argmax()))
        if said[-1] == subject.prompts.tokenizer.eos_token_id:
            break
        state = subject.runner.extend(state.cache, state.next_position, torch.tensor([said[-1:]]))
    return said


def expected(subject, question: Question) -> list[int]:
    tokenizer = subject.prompts.tokenizer
    return [*tokenizer.encode(question.answer, add_special_tokens=False), tokenizer.eos_token_id]


def test_a_full_pass_is_graded_as_the_engine_decodes_it(subject):
    verdicts = []
    for case in CASES:
        graded, prefix = subject.full_pass(case)
        assert prefix.tokens == 2 + 196
        for question, verdict in zip(case.questions, graded.right, strict=True):
            prompt = subject.prompts.full(about(question), case.image)
            answer = expected(subject, question)
            said = decoded(subject, subject.runner.prefill(prompt), len(answer))
            assert verdict == (said == answer), question
            verdicts.append(verdict)
    assert any(verdicts)


@pytest.mark.parametrize("retention", [1.0, 0.05])
def test_a_context_is_graded_as_the_engine_decodes_it(subject, settings, retention):
    verdicts = []
    window = parse_window(settings.window, subject.runner.num_layers)
    for case in CASES:
        described = subject.describe(case, window)
        kept = get_selection("coverage").select(described.scores(), kept_count(retention, 196))
        right = subject.from_context(case, described, kept)[0].right
        packed = described.packed(kept, subject.runner.inv_freq)
        for question, verdict in zip(case.questions, right, strict=True):
            ids = subject.prompts.continuation(settings.describe_prompt, about(question))
            answer = expected(subject, question)
            cache = subject.runner.cache_of(packed.keys, packed.values)
            said = decoded(subject, subject.runner.extend(cache, packed.tokens, ids), len(answer))
            assert verdict == (said == answer), question
            verdicts.append(verdict)
    assert any(verdicts)


def test_wrong_answers_are_graded_wrong(subject):
    """The model's own answers pass; the same with another word, or cut short, do not."""
    case = CASES[0]
    right = subject.full_pass(case)[0].right
    question = next(q for q, verdict in zip(case.questions, right, strict=True) if verdict)
    other = "No" if question.answer != "No" else "Yes"
    for wrong in (other, f"{question.answer} {other}", ""):
        asked = case._replace(pairs={}, open={"existence": question._replace(answer=wrong)})
        assert subject.full_pass(asked)[0].right == [False], wrong


def test_a_question_is_graded_alike_in_any_company(subject):
    """Padding and neighbours in the batch change nothing."""
    case = CASES[1]
    together = subject.full_pass(case)[0].right
    alone = [subject.full_pass(case._replace(pairs={}, open={"": q}))[0].right[0] for q in case.questions]
    assert together == alone


def test_the_description_is_the_engines(subject, settings):
    window = parse_window(settings.window, subject.runner.num_layers)
    ours = subject.describe(CASES[0], window)
    loaded = LoadedModel(subject.runner.model, subject.prompts._processor, "0" * 64, "0" * 64)
    engine = TransformersEngine(loaded)
    plan = DescribePlan(settings.describe_prompt, 128, "generated", (window.start, window.stop), "coverage", 0.05)

    async def describe():
        try:
            return await engine.describe(CASES[0].image, plan, DEFAULT_TENANT)
        finally:
            await engine.close()

    theirs = asyncio.run(describe())
    assert theirs.text == ours.text
    kept = get_selection("coverage").select(ours.scores(), kept_count(0.05, 196))
    close = partial(torch.testing.assert_close, atol=1e-4, rtol=1e-4)
    assert theirs.kept.tolist() == kept.tolist()
    packed = ours.packed(kept, subject.runner.inv_freq)
    close(theirs.keys, packed.keys[:, :, theirs.num_prefix_tokens :])
    assert theirs.position_shift == packed.position_shift
    close(theirs.scores, ours.scores().values.mean(0))

"""Signals of how sure an answer is, taken from the engine's own numbers."""

import itertools
import math

import pytest
import torch

from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import kept_tokens
from lookonce_evaluation.metrics.grading import grade_exactly
from lookonce_evaluation.tasks.fallback import SIGNALS, answer_questions
from lookonce_pruning import AttentionRecorder

CASES = held_out(2, 600_000_000)


@pytest.fixture(scope="module")
def asked(model, settings, described):
    """Of each case: what is kept of it at 2%, and what is said from that."""
    found = []
    for case in CASES:
        kept = kept_tokens(described(case), 0.02, settings)
        answers = answer_questions(model, case.questions, described(case), kept, described(case).scores())
        found.append((case, kept, answers))
    return found


def test_what_is_said_is_graded_as_the_grader_does(model, described, asked):
    for case, kept, answers in asked:
        prompts = [model.after_context(question.text) for question in case.questions]
        context = described(case).context(kept)._replace(prompts=prompts)
        assert answers.right == grade_exactly(model, context, case.questions).right
        assert answers.prompt_tokens == [len(prompt) for prompt in prompts]
    assert not all(itertools.chain(*(answers.right for *_, answers in asked)))


def test_signals_are_those_of_a_question_asked_alone(model, described, asked):
    """Token by token on the runner, as the engine decodes."""
    case, kept, answers = asked[0]
    context = described(case).context(kept)
    for i in (0, len(case.questions) - 1):
        ids = torch.tensor([model.after_context(case.questions[i].text)])
        cache = model.runner.cache_of(context.keys, context.values, {})
        state = model.runner.extend(cache, context.tokens, ids)
        margins, probabilities = [], []
        for _ in model.answer_ids(case.questions[i].answer):
            logprobs = state.logits.log_softmax(-1)
            first, second = logprobs.topk(2).values.tolist()
            margins.append(first - second)
            probabilities.append(math.exp(first))
            if len(margins) == 1:
                entropy = float((logprobs.exp() * logprobs).sum())
            token = int(state.logits.argmax())
            if token == model.tokenizer.eos_token_id:
                break
            state = model.runner.extend(state.cache, state.next_position, torch.tensor([[token]]))
        expected = [margins[0], probabilities[0], entropy, min(margins), min(probabilities)]
        assert [answers.signals[name][i] for name in SIGNALS[:5]] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_attention_is_what_the_recorder_sees_when_all_is_kept(model, described):
    """With everything kept the context is the prompt itself: one pass over prompt and question has the same rows."""
    case = CASES[0]
    prompt, question = described(case).prompt, case.questions[0]
    everything = torch.arange(len(prompt.image_positions))[None]
    answers = answer_questions(model, [question], described(case), everything, described(case).scores())
    ids = torch.tensor([model.after_context(question.text)])
    total = prompt.tokens + ids.shape[1]
    recorder = AttentionRecorder(
        model.runner.model,
        image_positions=prompt.image_positions,
        prompt_length=total,
        window=range(model.num_layers),
        grid=prompt.grid,
    )
    with recorder:
        state = model.runner.prefill(prompt)
        model.runner.extend(state.cache, state.next_position, ids)
    shares = recorder.weights(range(total - 1, total), prompt.image_positions).sum(-1)[:, 0]
    expected = [float(third.mean()) for third in torch.tensor_split(shares, 3)]
    found = [answers.signals[f"attention, {third}"][0] for third in ("early", "middle", "late")]
    assert found == pytest.approx(expected, rel=1e-3)
    assert answers.signals["scores kept"] == [pytest.approx(1.0)]

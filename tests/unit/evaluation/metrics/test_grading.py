"""The grader's one pass gives the verdict that the engine's own decoding would."""

import pytest
import torch

from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import kept_tokens
from lookonce_evaluation.metrics.grading import full_pass, grade_exactly, verdict
from lookonce_evaluation.model import about_image

CASES = held_out(2, 600_000_000)


def decoded(model, state, limit: int) -> list[int]:
    """Greedy decoding on the runner, token by token; at most `limit` of them."""
    tokens = []
    while len(tokens) < limit:
        tokens.append(int(state.logits.argmax()))
        if tokens[-1] == model.tokenizer.eos_token_id:
            break
        state = model.runner.extend(state.cache, state.next_position, torch.tensor([tokens[-1:]]))
    return tokens


def expected(model, question) -> list[int]:
    return [*model.tokenizer.encode(question.answer, add_special_tokens=False), model.tokenizer.eos_token_id]


def test_a_full_pass_is_graded_as_the_engine_decodes_it(model):
    verdicts = []
    for case in CASES:
        graded, cache = full_pass(model, case)
        assert cache.tokens == 2 + 196
        for question, right in zip(case.questions, graded.right, strict=True):
            prompt = model.prompts.full(about_image(question.text), [case.image])
            answer = expected(model, question)
            assert right == (decoded(model, model.runner.prefill(prompt), len(answer)) == answer), question
            verdicts.append(right)
    assert any(verdicts)


@pytest.mark.parametrize("retention", [1.0, 0.05])
def test_a_context_is_graded_as_the_engine_decodes_it(model, settings, described, retention):
    verdicts = []
    for case in CASES:
        context = described(case).context(kept_tokens(described(case), retention, settings))
        prompts = [model.after_context(question.text) for question in case.questions]
        right = grade_exactly(model, context._replace(prompts=prompts), case.questions).right
        for question, verdict_ in zip(case.questions, right, strict=True):
            ids = model.prompts.continuation(settings.describe_prompt, about_image(question.text))
            answer = expected(model, question)
            cache = model.runner.cache_of(context.keys, context.values, {})
            said = decoded(model, model.runner.extend(cache, context.tokens, ids), len(answer))
            assert verdict_ == (said == answer), question
            verdicts.append(verdict_)
    assert any(verdicts)


def test_wrong_answers_are_graded_wrong(model):
    """The model's own answers pass; the same with another word, or cut short, do not."""
    case = CASES[0]
    right = full_pass(model, case)[0].right
    question = next(q for q, verdict_ in zip(case.questions, right, strict=True) if verdict_)
    other = "No" if question.answer != "No" else "Yes"
    for wrong in (other, f"{question.answer} {other}", ""):
        asked = case._replace(pairs={}, open={"existence": question._replace(answer=wrong)})
        assert full_pass(model, asked)[0].right == [False], wrong


def test_margins_are_those_of_the_models_own_tokens(model):
    """Up to the first token that is not the right one: what follows it is nobody's answer."""
    case = CASES[0]
    graded, cache = full_pass(model, case)
    for question, prompt, right, margin in zip(
        case.questions, cache.prompts, graded.right, graded.margins, strict=True
    ):
        logits: list[torch.Tensor] = []
        model.decode(model.ask(cache, prompt), len(expected(model, question)), watch=logits.append)
        tops = torch.cat(logits).topk(2).values
        margins = (tops[:, 0] - tops[:, 1]).tolist()
        if right:
            assert margin == pytest.approx(min(margins), abs=1e-3)
        else:
            assert any(margin == pytest.approx(min(margins[:n]), abs=1e-3) for n in range(1, len(margins) + 1))


def test_a_question_is_graded_alike_in_any_company(model):
    """Padding and neighbours in the batch change nothing."""
    case = CASES[1]
    together = full_pass(model, case)[0].right
    alone = [full_pass(model, case._replace(pairs={}, open={"": q}))[0].right[0] for q in case.questions]
    assert together == alone


def test_the_first_word_is_the_verdict():
    for text in ("Yes", "  **Yes**, there is one.", "_yes_"):
        assert verdict(text) == "Yes", text
    for text in ("no.", "NO, THERE IS NOT"):
        assert verdict(text) == "No", text
    for text in ("Yesterday", "None", "Not at all", "I think yes", "", "?!"):
        assert verdict(text) is None, text

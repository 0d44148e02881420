"""Descriptions and answers with attention knocked out, on the bundled model."""

import random
import sys
from functools import partial

import pytest
import torch

from lookonce_evaluation.analysis.information_flow.questions import about_objects
from lookonce_evaluation.analysis.information_flow.trials import (
    FLOWS,
    KINDS,
    LayerSet,
    Trial,
    answers,
    asked_tokens,
    describe_groups,
    descriptions,
    layer_sets,
    question_groups,
    trials,
    windows,
)
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe
from lookonce_evaluation.metrics.grading import full_pass
from lookonce_evaluation.model import about_image
from lookonce_scenes.questions import OPEN, Question
from lookonce_scenes.tokenizer import GRID, PATCH_SIZE
from lookonce_scenes.world import SHAPES, masks, sample_scene

CASES = held_out(2, 600_000_100)
EVERYWHERE = LayerSet("all", 0, tuple(range(8)))
NOWHERE = LayerSet("from", 8, ())
close = partial(pytest.approx, rel=1e-3, abs=1e-6)


def prompt_of(model, case, question: str):
    return model.prompts.full(about_image(question), [case.image])


def text_of(model, prompt, positions: range) -> str:
    return model.prompts.tokenizer.decode(prompt.inputs["input_ids"][0, positions.start : positions.stop])


def test_a_prompts_groups(model):
    case, question = CASES[0], about_objects(CASES[0])[0]
    prompt = prompt_of(model, case, question.text)
    groups = question_groups(model, prompt, question.text, question.shown)
    assert groups.image.tolist() == list(range(2, 198))
    assert groups.query == range(198, prompt.tokens)
    assert groups.generated == range(prompt.tokens, sys.maxsize)
    assert groups.last == range(prompt.tokens - 1, prompt.tokens)
    assert text_of(model, prompt, groups.question) == question.text
    assert text_of(model, prompt, groups.last) == "<|assistant|>"
    parts = torch.cat([groups.asked, groups.others])
    assert 0 < len(groups.asked) < 196
    assert torch.equal(parts.sort().values, groups.image)


def test_a_describe_turns_groups(model):
    prompt = model.prompts.describe("Describe the image.", CASES[0].image)
    groups = describe_groups(prompt)
    assert text_of(model, prompt, groups.query) == "Describe the image.<|assistant|>"
    assert groups.asked is None
    assert groups.others is None


def test_asked_tokens_are_the_patches_that_show_the_object():
    cases = [(scene, index, mask) for scene in map(sample_scene, range(5)) for index, mask in enumerate(masks(scene))]
    for scene, index, mask in cases:
        patches = [
            row * GRID + column
            for row in range(GRID)
            for column in range(GRID)
            if mask[row * PATCH_SIZE :, column * PATCH_SIZE :][:PATCH_SIZE, :PATCH_SIZE].any()
        ]
        assert asked_tokens(scene, index, (GRID, GRID)).tolist() == patches


def test_tokens_that_are_no_square_show_no_known_object():
    scene = sample_scene(0)
    assert asked_tokens(scene, 0, (1, 196)) is None
    assert asked_tokens(scene, 0, (1, 1)) is None  # it shows the rest too


def test_questions_about_objects_are_those_that_scenes_ask():
    """Word for word, with the same answer; and the answer is that of the object named."""
    rng, words = random.Random(0), (*SHAPES, "red", "orange", "yellow", "green", "blue", "purple")
    for case in held_out(30, 600_000_000):
        asked = about_objects(case)
        assert "position" in {question.category for question in asked}
        assert about_objects(case) == asked
        for image, category, text, answer, (scene, index) in asked:
            possible = {OPEN[category](case.scene, rng) for _ in range(300)}
            assert Question(category, text, answer) in possible
            o = scene.objects[index]
            assert image is case.image
            assert answer in {"color": o.color, "shape": o.kind, "size": o.size}.get(category, answer)
            assert {word for word in words if word in text} <= {o.kind, o.color}


def test_with_nothing_knocked_out_the_description_is_the_ordinary_one(model):
    for case in CASES:
        ordinary = describe(model, case, range(1)).text
        assert descriptions(model, case.image, [Trial(kind, NOWHERE) for kind in KINDS]) == [ordinary] * 4


def test_many_descriptions_at_once_are_those_of_one_at_a_time(model):
    case = CASES[1]
    plan = trials(KINDS, layer_sets(8, 3))[::12]
    together = descriptions(model, case.image, plan)
    assert len(set(together)) > 3  # they end after different numbers of tokens
    assert descriptions(model, case.image, plan, rows=5) == together
    for trial, text in zip(plan, together[1:], strict=True):
        assert descriptions(model, case.image, [trial])[1] == text, trial


def test_text_that_never_sees_the_image_says_the_same_of_all(model):
    blind = [descriptions(model, case.image, [Trial("image→both", EVERYWHERE)]) for case in CASES]
    assert blind[0][0] != blind[1][0]
    assert blind[0][1] == blind[1][1]


def ask(model, case, question, plan, **options):
    return answers(model, model.prefix(case.image), question, plan, **options)


def test_the_last_prompt_position_is_a_query_token(model):
    """So an answer's first token is the same when generated tokens are blind, and another when the query is."""
    plan = [Trial("image→generated", EVERYWHERE), Trial("image→query", EVERYWHERE)]
    for question in about_objects(CASES[0]):
        plain, generated, query = ask(model, CASES[0], question, plan)
        assert generated.probability == close(plain.probability)
        assert query.probability < 0.5 < plain.probability


def test_with_nothing_knocked_out_the_answer_is_the_full_passs(model):
    seen = []
    for case in CASES:
        for question in about_objects(case)[::2]:
            graded = full_pass(model, case._replace(pairs={}, open={question.category: Question(*question[1:4])}))[0]
            state = model.runner.prefill(prompt_of(model, case, question.text))
            base, *same = ask(model, case, question, [Trial(flow, NOWHERE) for flow in FLOWS])
            assert base.right == graded.right[0]
            assert base.probability == close(float(state.logits.softmax(-1).max()))
            assert [one.probability for one in same] == [close(base.probability)] * len(FLOWS)
            seen.append(base.right)
            wrong = question._replace(answer="no such thing")
            assert not ask(model, case, wrong, [])[0].right
    assert any(seen)


def test_many_answers_at_once_are_those_of_one_at_a_time(model):
    case = CASES[1]
    question = about_objects(case)[-1]
    plan = trials(KINDS, layer_sets(8, 3))[::18] + trials(FLOWS, windows(8, 3))[1::7]
    together = ask(model, case, question, plan)
    assert min(one.probability for one in together) < 0.5 < together[0].probability
    apart = [ask(model, case, question, [trial])[1] for trial in plan]
    for other in (ask(model, case, question, plan, rows=5)[1:], apart):
        for one, same in zip(together[1:], other, strict=True):
            assert one.probability == close(same.probability)
            assert one[1:] == same[1:]


def test_blind_answers_are_the_same_for_all_images(model):
    question = about_objects(CASES[0])[0]
    blind = [ask(model, case, question, [Trial("image→query", EVERYWHERE)]) for case in CASES]
    # The token looked at is the one that each image's own answer begins with, so the same scene is asked about twice.
    again = ask(model, CASES[0], question, [Trial("image→both", EVERYWHERE)])
    assert blind[0][1].probability == close(again[1].probability)
    assert blind[0][1].probability < 0.9 * blind[0][0].probability


def test_flows_from_patches_that_are_not_known_are_left_out(model):
    question = about_objects(CASES[0])[0]._replace(shown=None)
    plan = trials(FLOWS, windows(8, 3)[:1])
    found = ask(model, CASES[0], question, plan)
    assert [trial.flow for trial, one in zip(plan, found[1:], strict=True) if one is None] == [
        "asked→question",
        "others→question",
    ]


def test_the_parts_of_the_image_together_are_the_image(model):
    """Knocking both parts out is knocking the image out."""
    case, question = CASES[1], about_objects(CASES[1])[-1]
    prompt = prompt_of(model, case, question.text)
    groups = question_groups(model, prompt, question.text, question.shown)
    whole, asked, others = (
        Trial(flow, EVERYWHERE).blocked(groups)[0] for flow in ("image→question", "asked→question", "others→question")
    )
    assert whole.rows == asked.rows == others.rows == groups.question
    assert set(whole.columns.tolist()) == {*asked.columns.tolist(), *others.columns.tolist()}
    assert not {*asked.columns.tolist()} & {*others.columns.tolist()}

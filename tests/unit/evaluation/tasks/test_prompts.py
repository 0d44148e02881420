"""What the tokens of a describe prompt hold, by prompt."""

import pytest

from lookonce_evaluation.cli import analyze
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe, kept_tokens
from lookonce_evaluation.metrics.grading import grade_exactly
from lookonce_evaluation.tasks.judge.judges import RuleJudge, score
from lookonce_evaluation.tasks.prompts import (
    BLIND,
    RETENTIONS,
    contexts_table,
    f1,
    held_table,
    measure,
    outcomes,
    result,
    usable,
)

PROMPTS = ["Describe the image.", "", "How many objects are there?"]
CASES = held_out(2, 600_000_200)


@pytest.fixture(scope="module")
def records(model, settings):
    return [measure(model, settings, RuleJudge(), PROMPTS, case) for case in CASES]


def test_every_prompt_is_judged_by_the_default_ones_description(model, settings, records):
    window = model.window(settings.window)
    for case, record in zip(CASES, records, strict=True):
        original = describe(model, case, window).text
        assert list(record["prompts"]) == PROMPTS
        for prompt, one in record["prompts"].items():
            assert one["seeing"]["text"] == describe(model, case, window, prompt).text
            for what in ("seeing", "alone"):
                assert one[what]["counts"] == score(RuleJudge(), original, one[what]["text"])
        assert record["prompts"][PROMPTS[0]]["seeing"]["counts"] == score(RuleJudge(), original, original)
        assert record["prompts"][PROMPTS[2]]["seeing"]["text"] == str(len(case.scene.objects))


def test_answers_from_a_prompts_contexts_are_those_of_a_model_with_that_prompt(model, settings, records):
    """The default prompt's, by the path that other evaluations take."""
    window = model.window(settings.window)
    for case, record in zip(CASES, records, strict=True):
        described = describe(model, case, window)
        for share, grades in zip(RETENTIONS, record["prompts"][PROMPTS[0]]["grades"], strict=True):
            context = described.context(kept_tokens(described, share, settings))
            prompts = [model.after_context(question.text) for question in case.questions]
            assert grades == grade_exactly(model, context._replace(prompts=prompts), case.questions).right


def test_the_empty_prompt_is_a_prompt_of_its_own(model, settings):
    window = model.window(settings.window)
    default, empty = (describe(model, CASES[0], window, prompt) for prompt in (None, ""))
    assert empty.prompt.tokens < default.prompt.tokens
    assert usable(model, PROMPTS) == PROMPTS


def test_a_prompt_that_the_template_does_not_take_is_left_out_and_told(model, monkeypatch, capsys):
    processor = model.prompts._processor
    refusing = "{%- if messages[0].content[1].text == '' -%}{{ raise_exception('no empty turns') }}{%- endif -%}"
    monkeypatch.setattr(processor, "chat_template", refusing + processor.chat_template)
    assert usable(model, PROMPTS) == [PROMPTS[0], PROMPTS[2]]
    said = capsys.readouterr().out
    assert said.startswith("prompt '' is left out: ")
    assert "no empty turns" in said


def test_a_template_without_text_after_the_image_is_told(model, monkeypatch, capsys):
    bare = "{%- for m in messages -%}{%- for p in m.content -%}{{ '<image>' if p.type == 'image' else p.text }}"
    monkeypatch.setattr(model.prompts._processor, "chat_template", bare + "{%- endfor -%}{%- endfor -%}")
    assert usable(model, PROMPTS) == [PROMPTS[0], PROMPTS[2]]
    assert "prompt '' is left out: the chat template puts no text after the image then" in capsys.readouterr().out


def test_the_tables_are_made_of_the_records(records):
    lines = held_table(CASES, records, PROMPTS).splitlines()[2:]
    first, empty, question, blind = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    assert [first[0], empty[0], question[0], blind[0]] == [PROMPTS[0], "(empty)", PROMPTS[2], f"{PROMPTS[0]} (blind)"]
    assert first[1] == "100.0"
    assert question[1] == "0.0"
    assert float(empty[2]) == pytest.approx(50 * sum(f1(records, "", "alone")), abs=0.05)
    assert float(blind[4]) == pytest.approx(outcomes(CASES, records, BLIND, 0.0).percent("acc"), abs=0.05)
    body = contexts_table(CASES, records, PROMPTS).splitlines()[2:]
    shares = [share for share in (0.05, 0.02) for _ in PROMPTS]
    for line, share, prompt in zip(body, shares, PROMPTS * 2, strict=True):
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        assert cells[1] == f"{share:.0%}"
        assert float(cells[2]) == pytest.approx(outcomes(CASES, records, prompt, share).percent("acc"), abs=0.05)
    assert list(result(CASES, records, PROMPTS)["ways"]) == [*PROMPTS, BLIND]


def test_pictures_without_questions_are_judged_only(model, settings):
    bare = CASES[0]._replace(pairs={}, open={}, scene=None)
    record = measure(model, settings, RuleJudge(), PROMPTS, bare)
    assert record["prompts"][""]["grades"] == record[BLIND]["grades"] == []
    assert record["prompts"][""]["seeing"]["against_scene"] is None
    assert (
        held_table([bare], [record], PROMPTS).splitlines()[0]
        == "| prompt | F1 seeing the image | F1 by its tokens alone | change |"
    )
    assert result([bare], [record], PROMPTS)["ways"][""]["contexts"] == {}


def test_a_folders_pictures_want_a_judge_that_can_read(capsys, tmp_path):
    assert analyze(["prompts", "--images-folder", str(tmp_path)]) == 1
    assert "--judge rules: they read the scenes' words only" in capsys.readouterr().err
    arguments = ["prompts", "--images-folder", str(tmp_path), "--judge", "http://127.0.0.1:1/v1", "--judge-model", "m"]
    assert analyze(arguments) == 1
    assert "expected a folder with .png, .jpg or .webp pictures in it" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert analyze(arguments) == 1
    assert f"lookonce analyze prompts: {tmp_path / 'a.png'}: " in capsys.readouterr().err

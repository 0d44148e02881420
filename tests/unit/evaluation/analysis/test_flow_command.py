"""`lookonce analyze knockout` from end to end, and the means that its tables are made of."""

import json
import shutil

import pytest
from PIL import Image

from lookonce_evaluation.analysis.information_flow.questions import about_objects, read_questions
from lookonce_evaluation.analysis.information_flow.results import Stage, markdown, results_of
from lookonce_evaluation.analysis.information_flow.trials import (
    FLOWS,
    KINDS,
    Answer,
    LayerSet,
    Plan,
    Trial,
    answers,
    describe_record,
    descriptions,
)
from lookonce_evaluation.cli import analyze
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe
from lookonce_evaluation.model import EvalModel, about_image
from lookonce_evaluation.tasks.judge.judges import RuleJudge

from ....support.judge_endpoint import Endpoint, completion, listed, serving

SMALL = ["knockout", "--images", "2", "--asked", "2", "--step", "6"]
FILES = {"f1.png", "flows.png", "records.jsonl", "result.json", "table.md"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("flow") / "run"
    assert analyze([*SMALL, "--out", str(out)]) == 0
    return out


def test_every_file_is_written(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    for name in ("f1.png", "flows.png"):
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 500


def test_the_tables_are_well_formed(folder):
    text = (folder / "table.md").read_text()
    assert "nan" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line in lines:
        assert line.count("|") in (1 + 2 + len(KINDS), 1 + 2 + len(FLOWS), 1 + 6)
    assert lines[2].startswith("| nothing |  | 100.0 (100.0 to 100.0) |")
    assert "| all | 0-7 |" in text
    assert "window of 3 layers" in text
    for kind in (*KINDS, *FLOWS):
        assert f" {kind} |" in text


def test_an_image_that_no_token_sees_is_not_described(folder):
    found = json.loads((folder / "result.json").read_text())
    f1 = {(one["flow"], one["how"]): one["percent"][0] for one in found["described"]["f1"]}
    assert f1[None, "nothing"] == 100
    assert f1["image→both", "all"] < 50
    assert found["flows"]["all"]["change"].keys() == FLOWS.keys()
    assert (found["window"], found["step"], found["windows"]) == (3, 6, [[0, 1], [5, 6, 7]])


def test_another_threshold_asks_nothing_anew(folder, tmp_path):
    """What was recorded is all that tables need, and the same command goes on from it."""
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    assert analyze([*SMALL, "--out", str(again), "--tau", "99.5"]) == 0
    assert (again / "records.jsonl").read_bytes() == (folder / "records.jsonl").read_bytes()
    (before, old), (after, new) = ((at / "table.md").read_text().split("**Stages**") for at in (folder, again))
    assert before == after
    assert old != new


def test_another_window_is_another_run(folder, capsys):
    assert analyze([*SMALL, "--out", str(folder), "--window", "5"]) == 1
    assert "window: 3, now 5" in capsys.readouterr().err


def test_any_checkpoint_runs_through(qwen2_vl, tmp_path):
    """Random weights answer nothing right: there are no flows to show, and that is said."""
    arguments = ["knockout", "--model", qwen2_vl, "--images", "1", "--asked", "1", "--step", "3"]
    assert analyze([*arguments, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    assert "0 questions that are answered right otherwise" in text
    assert "| all | 0 | none | none | none | none |" in text
    assert not (tmp_path / "flows.png").exists()


def test_with_nothing_knocked_out_another_family_says_what_it_says(qwen2_vl, settings):
    """Positions have three components there, and an image takes fewer of them than it has tokens."""
    model = EvalModel.load(qwen2_vl, settings)
    (case,) = held_out(1, 600_000_100)
    nothing = Trial("image→both", LayerSet("from", 4, ()))
    assert descriptions(model, case.image, [nothing]) == [describe(model, case, range(1)).text] * 2
    question = about_objects(case)[0]
    prompt = model.prompts.full(about_image(question.text), [case.image])
    state = model.runner.prefill(prompt)
    base, same = answers(model, model.prefix(case.image), question, [nothing])
    assert base.probability == pytest.approx(float(state.logits.softmax(-1).max()), rel=1e-3)
    assert same.probability == pytest.approx(base.probability, rel=1e-3)


def test_questions_of_a_file(tmp_path):
    (case,) = held_out(1, 600_000_100)
    case.image.save(tmp_path / "scene.png")
    lines = [
        {"image": "scene.png", "question": question.text, "answer": question.answer} for question in case.open.values()
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, lines)) + "\n")
    out = tmp_path / "run"
    assert analyze(["knockout", "--questions", str(questions), "--step", "7", "--out", str(out)]) == 0
    found = json.loads((out / "result.json").read_text())
    assert found["described"]["images"] == 0
    assert found["answered"]["questions"] == len(lines)
    assert found["answered"]["accuracy"][0]["percent"][0] > 50
    assert set(found["flows"]["all"]["change"]) == {"question→last", "image→last", "last→last", "image→question"}
    assert not (out / "f1.png").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a question a line, and it holds none"),
        ("[1]", 'line 1: expected {"image": "a.png"'),
        ('{"image": "a.png", "question": "?"}', "line 1: expected"),
        ('{"image": "missing.png", "question": "?", "answer": "a"}', "missing.png"),
    ],
)
def test_a_file_that_holds_no_questions_is_refused(line, message, tmp_path, capsys):
    path = tmp_path / "questions.jsonl"
    path.write_text(line)
    assert analyze(["knockout", "--questions", str(path), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert str(tmp_path) in error


def test_a_window_wider_than_the_model_is_refused(tmp_path, capsys):
    assert analyze(["knockout", "--window", "9", "--out", str(tmp_path)]) == 1
    assert "--window 9: expected at most 8" in capsys.readouterr().err


def test_pictures_of_a_folder_need_a_judge_that_reads_more_than_scenes(tmp_path, capsys):
    assert analyze(["knockout", "--images-folder", str(tmp_path)]) == 1
    assert "--judge rules" in capsys.readouterr().err


def test_pictures_of_a_folder_are_judged_by_an_endpoint(tmp_path):
    (case,) = held_out(1, 600_000_100)
    (tmp_path / "pictures").mkdir()
    case.image.save(tmp_path / "pictures" / "a.png")
    out = tmp_path / "run"
    endpoint = Endpoint({}, say=(200, completion(listed([]))))
    with serving(endpoint) as url:
        arguments = ["knockout", "--images-folder", str(tmp_path / "pictures"), "--judge", url, "--judge-model", "m"]
        assert analyze([*arguments, "--step", "7", "--out", str(out)]) == 0
    texts = json.loads((out / "records.jsonl").read_text().splitlines()[1].partition("\t")[2])["texts"]
    assert len(endpoint.requests) == len({text for text in texts if text.strip()})  # each is asked about once
    text = (out / "table.md").read_text()
    assert "| nothing |  | 0.0 (0.0 to 0.0) |" in text
    assert "**Answers**" not in text
    assert "against what is in the scenes" not in text


def test_a_threshold_is_a_percentage(capsys):
    for tau in ("0", "nan", "101", "much"):
        with pytest.raises(SystemExit):
            analyze(["knockout", "--tau", tau])
        assert f"'{tau}': expected a number above 0, at most 100" in capsys.readouterr().err


def record(plan: Plan, right: bool, costs: dict[str, float]) -> list[dict]:
    """One question; the flows named lose so much of a probability of a half, the others nothing."""
    halves = [Answer(0.5, right, right)] * (1 + len(plan.kinds))
    flows = [Answer(0.5 * (1 - costs.get(trial.flow, 0)), True, False) for trial in plan.flows]
    return [{"category": "color", "question": "?", "answer": "red", "answers": halves + flows}]


def test_a_picture_of_which_nothing_is_known_is_judged_by_its_description_alone(model):
    (case,) = held_out(1, 600_000_100)
    plan = Plan.of(8, 3)._replace(flows=[])
    plan = plan._replace(kinds=[trial for trial in plan.kinds if trial.where.how == "all"])
    described = describe_record(model, RuleJudge(), case._replace(scene=None), plan)
    assert described["texts"][0] == describe(model, case, range(1)).text
    found = results_of(plan, [described], [], tau=10)
    assert found.f1[None].value == 100
    assert found.truth == found.accuracy == {}
    assert "against what is in the scenes" not in markdown(found, 3, 10)


def test_only_answers_that_were_right_count_for_the_flows():
    plan = Plan.of(4, 1)
    asked = [record(plan, True, {"question→last": 0.5}), record(plan, False, {"image→last": 1})]
    found = results_of(plan, [], asked, tau=10)
    assert found.accuracy[None].value == 50
    assert found.flows.keys() == {"all", "color"}
    curves = found.flows["all"]
    assert curves.questions == 1
    assert [mean.value for mean in curves.changes["question→last"]] == pytest.approx([-50] * 4)
    assert [mean.value for mean in curves.changes["image→last"]] == [0] * 4
    assert curves.stages.aggregation == Stage(0, 3)
    assert curves.stages.direct is None
    assert "| all | 1 | none | none | 0-3 | none |" in markdown(found, 1, 10)
    assert found.f1 == {}


def test_pictures_are_read_from_where_the_file_is(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = {"image": "a.png", "question": "What color?", "answer": "black"}
    (tmp_path / "q.jsonl").write_text(f"{json.dumps(line)}\n\n{json.dumps(line | {'question': 'Where?'})}\n")
    ((name, questions),) = read_questions(tmp_path / "q.jsonl")
    assert name == "a.png"
    assert [(question.text, question.answer, question.shown) for question in questions] == [
        ("What color?", "black", None),
        ("Where?", "black", None),
    ]

"""`lookonce eval judge` from the command line: pairs, scenes, the fixed set, and what is refused."""

import json

import pytest

from lookonce_evaluation.cli import evaluate
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.tasks.judge import llm
from lookonce_evaluation.tasks.judge.command import FULL, RETENTIONS, fixed_set, judge_image, ways_table
from lookonce_evaluation.tasks.judge.judges import RuleJudge, score

from ....support.judge_endpoint import Endpoint, completion, listed, matched, replies, serving

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"original": "A red star, a blue circle.", "altered": "A red star.", "way": "5%"},
        {"original": "A red star, a blue circle.", "altered": "A green 7.", "way": "2%"},
        {"original": "A red star.", "altered": "A red star.", "way": "5%"},
    ]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    return path


def test_pairs_are_counted_by_way(pairs, tmp_path, capsys):
    assert evaluate(["judge", "--pairs", str(pairs), "--out", str(tmp_path / "run")]) == 0
    five, two = (tmp_path / "run" / "table.md").read_text().splitlines()[2:]
    assert five.startswith("| 5% | 2 | 2 | 1 | 0 | 100.0 | 75.0 | 83.3 (")
    assert two.startswith("| 2% | 1 | 0 | 2 | 1 | 0.0 | 0.0 | 0.0 (")
    counted = json.loads((tmp_path / "run" / "result.json").read_text())["counts"]
    assert counted["5%"] == {"images": 2, "tp": 2, "fp": 0, "fn": 1, "precision": 100.0, "recall": 75.0, "f1": 83.33,
                             "f1_95": counted["5%"]["f1_95"]}  # fmt: skip
    assert five in capsys.readouterr().out


def test_an_interrupted_run_asks_only_what_it_lacks_and_keeps_no_key(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    texts = {"A red star, a blue circle.": ["red star", "blue circle"], "A red star.": ["red star"]}
    endpoint = Endpoint({llm.list_question(text): [listed(objects)] for text, objects in texts.items()})
    endpoint.replies[llm.match_question(["red star", "blue circle"], ["red star"])] = [matched([(1, 1)])]
    endpoint.replies[llm.match_question(["red star"], ["red star"])] = [matched([(1, 1)])]
    run = tmp_path / "run"
    with serving(endpoint) as url:
        command = ["judge", "--pairs", str(pairs), "--out", str(run), "--judge", url, "--judge-model", "m"]
        command += ["--api-key-env", "JUDGE_KEY"]
        assert evaluate(command) == 1  # "A green 7." is not among the replies
        assert f"lookonce eval judge: --judge {url}" in capsys.readouterr().err
        asked = len(endpoint.requests)
        endpoint.replies[llm.list_question("A green 7.")] = [listed([])]
        assert evaluate(command) == 0
    again = [request["messages"][1]["content"] for request in endpoint.requests[asked:]]
    assert llm.match_question(["red star", "blue circle"], ["red star"]) not in again
    assert "| 5% | 2 | 2 | 1 | 0 |" in (run / "table.md").read_text()
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert all(KEY not in path.read_text() for path in run.iterdir())


def test_the_check_counts_agreement_with_people_and_rules(tmp_path):
    answers = replies(tidy=True)
    wrong = next(known for known in fixed_set() if known.what == "a plural")
    answers[llm.list_question(wrong.altered)] = [listed(["blue star"])]
    answers[llm.match_question(["small red circle", "small blue star"], ["blue star"])] = [matched([(2, 1)])]
    with serving(Endpoint(answers)) as url:
        assert evaluate(["judge", "--check", "--judge", url, "--judge-model", "m", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "check" / "table.md").read_text()
    hand, rules, judge, *_, other = text.splitlines()[2:]
    assert hand.startswith("| by hand | 30 | 28 | 27 | 12 |")
    assert judge.startswith("| this judge | 30 | 27 | 28 | 12 |")
    assert [row.split(" | ")[-1] for row in (hand, rules, judge)] == ["29 |", "29 |", "30 |"]
    assert other == "| a plural | TP 2, FP 0, FN 0 | TP 2, FP 0, FN 0 | TP 1, FP 0, FN 1 | blue star |"
    assert json.loads((tmp_path / "check" / "result.json").read_text())["same"] == {"by hand": 29, "rules": 29}


def test_the_rules_count_the_fixed_set_as_a_person_does():
    assert len(fixed_set()) == 30
    for known in fixed_set():
        assert score(RuleJudge(), known.original, known.altered) == known.counts, known.what


def test_scenes_are_judged_against_their_description_and_their_truth(model, settings):
    cases = held_out(2, 600_000_000)
    records = [judge_image(model, settings, RuleJudge(), case) for case in cases]
    ways = [FULL, *(f"{how}, {share:.0%}" for share in RETENTIONS for how in ("decoded", "asked again"))]
    for case, record in zip(cases, records, strict=True):
        assert list(record) == ways
        said = record[FULL]["text"]
        for one in record.values():
            assert one["counts"] == score(RuleJudge(), said, one["text"])
            assert one["against_scene"] == score(RuleJudge(), case.scene.caption, one["text"])
    lines = ways_table(records).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {way}" for way in ways]
    assert lines[2].split(" | ")[7].startswith("100.0 (")


def test_a_folders_pictures_are_described_and_judged_by_the_endpoint(tmp_path):
    (case,) = held_out(1, 600_000_300)
    case.image.save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no picture")
    endpoint = Endpoint({}, say=(200, completion(listed([]))))
    with serving(endpoint) as url:
        command = ["judge", "--images-folder", str(tmp_path), "--judge", url, "--judge-model", "m"]
        assert evaluate([*command, "--out", str(tmp_path / "run")]) == 0
    assert endpoint.requests[0]["messages"][1]["content"] == llm.list_question(case.scene.caption)
    lines = (tmp_path / "run" / "table.md").read_text().splitlines()
    assert lines[0].endswith("| F1 |")
    assert lines[2] == "| full pass | 1 | 0 | 0 | 0 | 0.0 | 0.0 | 0.0 (0.0 to 0.0) |"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--judge", "gpt"], "--judge 'gpt': expected 'rules' or a base URL"),
        (["--judge", f"https://me:{KEY}@example.com/v1"], "a URL with a user or a query in it: expected 'rules'"),
        (["--judge", f"https://example.com/v1?key={KEY}"], "a URL with a user or a query in it: expected 'rules'"),
        (["--judge", "http://[bad/v1"], "--judge 'http://[bad/v1': expected 'rules' or a base URL"),
        (["--judge", "http://host:port/v1"], "--judge 'http://host:port/v1': expected 'rules' or a base URL"),
        (
            ["--judge", "http://127.0.0.1:1/v1", "--judge-model", "m", "--api-key-env", "ODD_KEY"],
            "ODD_KEY: the variable",
        ),
        (["--judge", "http://127.0.0.1:1/v1"], "--judge-model: expected the name of a model"),
        (
            ["--judge", "http://127.0.0.1:1/v1", "--judge-model", "m", "--api-key-env", "NO_KEY"],
            "NO_KEY: the environment",
        ),
        (["--images-folder", "."], "--judge rules: they read the scenes' words only"),
        (["--check", "--ignore-colors"], "--ignore-colors: the fixed set of --check was counted with colours"),
        (["--pairs", "no-such-file"], "--pairs no-such-file: it cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, told, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    monkeypatch.setenv("ODD_KEY", f"ключ{KEY}")
    assert evaluate(["judge", *arguments, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert KEY not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a pair of descriptions a line, and it holds none"),
        ("hello", "line 1: "),
        ('\n{"original": "a star"}', "line 2: altered: Field required"),
        ('{"original": "a star", "altered": 3}', "line 1: altered: Input should be a valid string"),
        ('["a", "b"]', "line 1: "),
    ],
)
def test_a_file_that_holds_no_pairs_is_one_line(text, told, tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    assert evaluate(["judge", "--pairs", str(path), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert f"--pairs {path}" in error
    assert told in error
    assert error.count("\n") == 1

"""Calibration: the search on synthetic answers, and the command from end to end on few images."""

import json
import random

import pytest

from lookonce_evaluation import cli, progress
from lookonce_evaluation.calibrate import command
from lookonce_evaluation.calibrate.search import Shares, best, candidates, search, verify, windows
from lookonce_evaluation.calibrate.tasks import Agreement, Labelled, key, measure
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe, kept_tokens
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.methods import Context
from lookonce_evaluation.metrics.grading import grade_exactly
from lookonce_pruning import middle_layers
from lookonce_server.profile import Profile
from lookonce_server.settings import Settings

COLUMNS = ["acc/color", "acc/color", "open/color", "acc/shape", "acc/shape", "open/shape"]
UNIT_SEED = 600_000_000


def method(window, rows, selection, retention) -> Context:
    return Context(f"{window[0]}-{window[1]}/{rows}/{selection}", retention, selection, window, rows)


# --- candidates -------------------------------------------------------------------------------------------------------


def test_the_windows_are_few_at_any_depth_the_middle_first():
    for depth in (1, 2, 3, 4, 8, 24, 80):
        found = windows(depth)
        middle = middle_layers(depth)
        assert found[0] == (middle.start, middle.stop)
        assert (0, depth) in found
        assert len(set(found)) == len(found) <= 8
        assert all(0 <= first < end <= depth for first, end in found)


def test_the_default_comes_first_and_what_is_blind_comes_once():
    found = candidates(8)
    assert found[0] == method((2, 4), Settings().rows, Settings().selection, 1.0)
    assert [each.name for each in found if each.selection == "uniform"] == ["2-4/generated/uniform"]
    assert len(set(found)) == len(found)


def test_what_ranks_in_every_layer_is_tried_with_all_of_them_alone():
    found = candidates(8, ["attention-per-layer"])
    assert [each.name for each in found] == [
        f"0-8/{rows}/attention-per-layer" for rows in ("generated", "query", "both")
    ]


# --- shares -----------------------------------------------------------------------------------------------------------


def record(**ways: str) -> dict:
    return {
        "columns": COLUMNS,
        "full": ways.pop("full", "111111"),
        "ways": {name: [text, 0.5] for name, text in ways.items()},
    }


def test_a_share_is_the_mean_over_kinds_of_the_mean_over_categories():
    shares = Shares([record(way="110111"), record(way="100111")])
    # acc: color 3/4, shape 1; open: color 0, shape 1
    assert shares.share("way") == pytest.approx(((0.75 + 1) / 2 + (0 + 1) / 2) / 2)
    assert shares.distance("way") == 0.5


def test_what_was_not_asked_is_not_counted():
    shares = Shares([record(way="111111") | {"columns": ["acc/a", "acc/a", "acc/b", "acc/b", "acc/b", "acc/b"]}])
    assert shares.share("way") == 1
    assert shares.compared("way").full == 1


def test_nothing_is_sure_on_few_images_even_if_all_went_well():
    bounds = [Shares([record(way="111111")] * count).compared("way").at_least for count in (2, 20, 200)]
    assert bounds == sorted(bounds)
    assert bounds[0] < 0.9
    assert 0.98 < bounds[2] < 1


def test_the_bound_is_paired():
    """Where full pass and context fail at the same images, these say nothing of the difference."""
    rng = random.Random(0)
    texts = ["".join(rng.choice("01") for _ in COLUMNS) for _ in range(100)]
    same = Shares([record(full=text, way=text) for text in texts]).compared("way")
    other = Shares([record(full=a, way=b) for a, b in zip(texts, texts[::-1], strict=True)]).compared("way")
    assert same.kept == 1
    assert same.at_least > 0.98
    assert other.at_least < 0.95


def test_the_bound_holds_as_often_as_it_says():
    """Of many samples of a way that truly keeps 90%, about 95% have a bound at or below that."""
    rng = random.Random(1)
    sound = 0
    for _ in range(100):
        texts = ["".join("1" if rng.random() < 0.9 else "0" for _ in COLUMNS) for _ in range(40)]
        sound += Shares([record(way=text) for text in texts]).compared("way").at_least <= 0.9
    assert sound >= 88


def test_a_full_pass_that_has_nothing_right_is_refused():
    with pytest.raises(EvaluationError, match="no answer right"):
        Shares([record(full="000000", way="111111")]).compared("way")


def test_images_needed_grow_as_the_margin_shrinks():
    compared = Shares([record(way="111111")] * 19 + [record(way="011111")]).compared("way")
    assert compared.images_needed(1 - compared.kept) is None
    needed = [compared.images_needed(tolerance) for tolerance in (0.5, 0.05, 0.02)]
    assert needed == sorted(needed)
    assert needed[0] < 20 < needed[2]


# --- search -----------------------------------------------------------------------------------------------------------

NAMES = [str(i) for i in range(400)]
BEST = "2-6/both/coverage"


def best_at(retention) -> Context:
    return method((2, 6), "both", "coverage", retention)


class World:
    """Answers by known chances; what was measured of whom."""

    def __init__(self, chance) -> None:
        self.chance = chance
        self.asked: list[tuple[str, list[str], list[Context]]] = []

    def __call__(self, stage, names, methods):
        self.asked.append((stage, list(names), list(methods)))
        return [self._record(name, methods) for name in names]

    def _record(self, name, methods):
        found = {}
        for each in methods:
            rng = random.Random(f"{name} {key(each)}")
            found[key(each)] = ["".join("01"[rng.random() < self.chance(each)] for _ in COLUMNS), 0.0]
        sizes = {f"{m.retention:g}": [round(100 * m.retention), 1000] for m in methods} | {"full": [100, 9000]}
        return {"columns": COLUMNS, "full": "111111", "ways": found, "sizes": sizes}


def chance(each: Context) -> float:
    best = 0.999 if each.retention >= 0.05 else 0.9
    return best if each.name == BEST else best - 0.1


def test_halving_finds_the_best_and_asks_fewer_and_fewer():
    world = World(chance)
    choosing, verifying = NAMES[:200], NAMES[200:]
    _, finalists = search(candidates(8), (0.02, 0.05, 0.2), choosing, world)
    assert best(finalists) == [best_at(0.2), best_at(0.05), best_at(0.02)]
    assert [len(names) for _, names, _ in world.asked] == [20, 60, 120]
    assert [name for _, names, _ in world.asked for name in names] == choosing
    counts = [len(methods) for _, _, methods in world.asked]
    assert counts[0] > 3 * counts[1] > 6 * counts[2]
    last = {each.name for each in world.asked[-1][2]}
    assert {
        candidates(8)[0].name,
        candidates(8)[-1].name,
    } <= last  # the default and uniform are always there to be beaten

    verified = verify(best(finalists), verifying, 0.02, world)
    assert set(world.asked[-1][1]).isdisjoint(choosing)
    assert [(winner.method.retention, winner.shown) for winner in verified] == [
        (0.2, True),
        (0.05, True),
        (0.02, False),
    ]
    assert command.smallest(verified, 0.02).method == best_at(0.05)
    assert (verified[0].size, verified[0].full) == ((20, 1000), (100, 9000))


def test_a_retention_below_one_that_failed_is_not_taken():
    methods = [best_at(0.2), best_at(0.05)]
    verified = verify(methods, NAMES, 0.02, World(lambda each: 0.9 if each.retention == 0.2 else 0.999))
    assert [winner.compared.is_shown(0.02) for winner in verified] == [False, True]
    assert [winner.shown for winner in verified] == [False, False]


def test_nothing_within_the_tolerance_is_said_in_one_line():
    verified = verify([best_at(0.05)], NAMES, 0.02, World(lambda _: 0.9))
    with pytest.raises(EvaluationError, match=r"--tolerance 0.02: .*@0.05 keeps 88.*less than 98.00%") as refused:
        command.smallest(verified, 0.02)
    assert "\n" not in str(refused.value)


def test_what_is_not_shown_says_how_many_images_would():
    verified = verify([best_at(0.05)], NAMES[:20], 0.02, World(lambda _: 1.0))
    with pytest.raises(EvaluationError, match=r"about --count \d+ is needed"):
        command.smallest(verified, 0.02)


# --- measuring --------------------------------------------------------------------------------------------------------


def test_everything_kept_answers_as_graded_elsewhere(model, settings):
    cases = held_out(1, UNIT_SEED)
    task = Labelled(cases, "unit")
    middle = method((2, 4), "generated", "coverage", 0.05)
    found = measure(model, task.ask(model, cases[0].name), [middle])
    described = describe(model, cases[0], range(2, 4))
    context = described.context(kept_tokens(described, 0.05, settings))
    prompts = [model.after_context(question.text) for question in cases[0].questions]
    graded = grade_exactly(model, context._replace(prompts=prompts), cases[0].questions)
    assert found["ways"][key(middle)][0] == "".join("01"[right] for right in graded.right)
    assert found["sizes"]["0.05"] == [context.tokens, context.bytes]
    assert len(found["columns"]) == len(found["full"]) == len(cases[0].questions)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, model, capsys):
    """A function that calibrates the bundled model, loaded once, with few candidates; returns exit code and output."""
    monkeypatch.setattr(command.EvalModel, "load", lambda *_: model)
    monkeypatch.setattr(command, "candidates", lambda depth, *_: candidates(depth, ["coverage"])[:2])

    def run(*arguments: str) -> tuple[int, str, str]:
        folders = ["--out", str(tmp_path / "run"), "-o", str(tmp_path / "profile.json")]
        code = cli.calibrate(["bundled", *arguments, *folders])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_scenes_give_a_profile_that_the_server_takes(run, tmp_path, model, monkeypatch):
    arguments = ("--images", "scenes", "--count", "4", "--retentions", "0.2", "--tolerance", "0.6")
    code, said, shown = run(*arguments)
    assert code == 0
    assert "| 0.2 | `" in said
    assert shown == ""  # nobody watches
    profile = Profile.read(tmp_path / "profile.json", "it")
    assert (profile.retention, profile.selection, profile.rows) == (0.2, "coverage", "generated")
    assert (profile.checkpoint.name, profile.checkpoint.digest) == ("lookonce-scenes", model.checkpoint)
    measured = profile.measured
    assert (measured.images, measured.tolerance, measured.tokens, measured.full_tokens) == (2, 0.6, 47.0, 198.0)
    assert measured.at_least >= 0.4
    assert measured.by.startswith("lookonce calibrate lookonce-scenes --images scenes --count 4 --tolerance 0.6 ")
    assert str(tmp_path) not in (tmp_path / "profile.json").read_text()

    records = (tmp_path / "run" / "records.jsonl").read_text()
    before = profile.model_dump_json()
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    code, _, shown = run(*arguments)
    assert code == 0  # nothing is measured again
    for line in ("rung 1 (candidates: 2): 100%", "verify (candidates: 1): 100%"):
        assert line in shown
    assert (tmp_path / "run" / "records.jsonl").read_text() == records
    assert Profile.read(tmp_path / "profile.json", "it").model_dump_json() == before


def test_without_anything_within_the_tolerance_there_is_no_profile(run, tmp_path):
    code, _, error = run("--images", "scenes", "--count", "2", "--retentions", "0.01", "--tolerance", "0")
    assert code == 1
    assert error.splitlines()[-1].startswith("lookonce calibrate: nothing is shown to be within --tolerance 0: ")
    assert not (tmp_path / "profile.json").exists()


def test_a_folder_of_pictures_is_judged_by_the_full_passes_own_answers(run, tmp_path, model):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for case in held_out(2, UNIT_SEED + 10):
        case.image.save(folder / f"{case.name}.png")
    questions = tmp_path / "questions.txt"
    questions.write_text("What color is the star?\n\nHow many objects are there?\n")
    task = Agreement(folder, 2, ["How many objects are there?"])
    asked = task.ask(model, task.names[0])
    everything = method((2, 4), "generated", "attention", 1.0)
    assert measure(model, asked, [everything])["ways"][key(everything)][0] == "1"

    arguments = ("--images", str(folder), "--questions", str(questions), "--retentions", "1", "--tolerance", "0.9")
    code, _, error = run(*arguments)
    assert code == 0, error
    measured = json.loads((tmp_path / "profile.json").read_text())["measured"]
    assert (measured["full_pass"], measured["images"]) == (1.0, 1)
    assert "token for token" in measured["measure"]
    records = [line.partition("\t")[2] for line in (tmp_path / "run" / "records.jsonl").read_text().splitlines()[1:]]
    assert [json.loads(record)["columns"] for record in records] == [["agreement/0", "agreement/1"]] * 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "{tmp}/none"], "expected a folder with .png"),
        (["--images", "scenes", "--questions", "{tmp}/none"], "--questions: scenes have questions of their own"),
        (["--images", "scenes", "-o", "{tmp}/none/p.json"], "--output {tmp}/none/p.json: there is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, capsys, arguments, told):
    arguments = [one.replace("{tmp}", str(tmp_path)) for one in arguments]
    assert cli.calibrate(["bundled", *arguments]) == 1
    error = capsys.readouterr().err
    assert told.replace("{tmp}", str(tmp_path)) in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tolerance", "1"),
        ("--retentions", "0"),
        ("--retentions", "nan"),
        ("--selections", "best"),
        ("--count", "1"),
        ("--describe-prompt", ""),
    ],
)
def test_a_bad_option_is_named(capsys, option, value):
    with pytest.raises(SystemExit) as end:
        cli.calibrate(["bundled", "--images", "scenes", option, value])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"{option}" in error
    assert (repr(value) if value else "0 characters") in error

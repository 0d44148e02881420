"""Every way makes a context; the ways that compute something do what they say; tables are of the records alone."""

import json

import pytest
import torch

from lookonce_evaluation.cli import evaluate
from lookonce_evaluation.dataset import HELD_OUT_SEED, SEARCH_SEED, held_out
from lookonce_evaluation.search import baselines, command, holding, merging, spreading, tables
from lookonce_evaluation.search.candidate import Look, middle_half

LAYERS = 8
KEEP = 10
WAYS = command.candidates(LAYERS)


@pytest.fixture(scope="module")
def look(subject) -> Look:
    (case,) = held_out(1, 600_000_003)
    return Look(subject, case)


def right(look, context):
    return look.subject.ask(look.case, context.keys, context.values).right


def test_names_are_unique():
    assert len({way.name for way in WAYS}) == len(WAYS)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_way_makes_a_context_of_as_many_image_tokens(look, way):
    context = way.make(look, KEEP).context
    text = look.described.prompt.tokens - len(look.described.prompt.image_positions)
    more = len(look.described.said) if way.family == "description" else 0
    assert context.tokens == text + KEEP + more
    assert context.keys.shape == context.values.shape == (LAYERS, 2, context.tokens, 32)
    assert torch.isfinite(context.keys).all()
    assert torch.isfinite(context.values).all()


def test_the_confirmation_is_of_the_chosen_way_the_one_before_and_the_baselines():
    names = [way.name for way in command.confirmed(LAYERS)]
    assert names[:2] == ["coverage, window 2-6", "coverage, window 2-4"]
    assert sorted(names[2:]) == ["attention", *(f"random {seed}" for seed in range(5)), "uniform"]


def test_random_ways_draw_anew_for_every_image(subject, look):
    other = Look(subject, held_out(1, 600_000_004)[0])
    first, again, elsewhere = (baselines.drawing(0)(one, KEEP).tolist() for one in (look, look, other))
    assert first == again
    assert first != elsewhere != baselines.drawing(1)(other, KEEP).tolist()


def test_image_tokens_that_no_layer_sees_are_as_good_as_dropped(look):
    def answers(seen_in):
        way = holding.only(look, KEEP, layers=middle_half(LAYERS), seen_in=seen_in)
        with command.blocking(look, way):
            return right(look, way.context)

    none = torch.zeros(1, 0, dtype=torch.int64)
    dropped = look.described.packed(none, look.subject.runner.inv_freq)
    kept = holding.only(look, KEEP, layers=middle_half(LAYERS), seen_in=range(LAYERS)).context
    assert answers(range(0)) == right(look, dropped)
    assert answers(range(LAYERS)) == right(look, kept) != right(look, dropped)


def test_merged_tokens_are_the_groups_weighed_means():
    tokens = torch.tensor([[[0.0], [2.0], [5.0], [9.0]]])
    merged = merging.means(tokens, torch.tensor([3.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]), 2)
    assert merged.tolist() == [[[0.5], [7.0]]]


def test_a_token_like_one_that_is_kept_is_not_kept():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    quality = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    likeness = features @ features.T
    assert spreading.greedy_determinant(likeness * quality[:, None] * quality, 2).tolist() == [[0, 2]]
    assert spreading.greedy_facility(likeness.float(), quality.float(), 2).tolist() == [[0, 2]]


def test_tables_count_what_the_records_say():
    cases = held_out(2, 600_000_005)
    counts = [len(case.questions) for case in cases]
    grades = {"good": "1", "bad": "0"}
    records = [
        {"full": "1" * n, "0.05": {name: {"right": digit * n, "tokens": 17} for name, digit in grades.items()}}
        for n in counts
    ]
    found = tables.results(cases, records)
    table = tables.markdown(found, {"good": "one", "bad": "other"}, "good").splitlines()
    whole = "100.0 (100.0%) | 100.0 (100.0%) | 100.0 (100.0%)"
    assert table[3] == f"| one | good | 17 | {whole} | +0.00 (+0.00 to +0.00) | - |"
    assert table[2] == f"| - | full pass | - | {whole} | - | +0.00 (+0.00 to +0.00) |"
    lost = "-100.00 (-100.00 to -100.00)"
    assert table[4] == f"| other | bad | 17 | 0.0 (0.0%) | 0.0 (0.0%) | 0.0 (0.0%) | {lost} | {lost} |"
    assert len({line.count("|") for line in table}) == 1
    assert "0.0 / 0.0 / 0.0" in tables.by_category(found).splitlines()[-1]


def test_the_two_parts_never_share_a_scene(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "candidates", lambda _: WAYS[:9])  # the baselines, and both windows that are compared
    assert evaluate(["search", "--images", "1", "--confirm", "1", "--out", str(tmp_path)]) == 0
    for part, seed in (("search", SEARCH_SEED), ("confirm", HELD_OUT_SEED)):
        asked, record = (tmp_path / part / "records.jsonl").read_text().splitlines()
        assert len(json.loads(asked)["ways"]) == 9
        assert record.startswith(f'"{seed}"')
        result = json.loads((tmp_path / part / "result.json").read_text())
        assert [one["retention"] for one in result] == [0.05, 0.02]
        assert (tmp_path / part / "table.md").read_text().startswith("| kept: 5% | way |")
        assert (tmp_path / part / "categories.md").exists()

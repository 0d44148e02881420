"""A checkpoint is measured on held-out conversations and on other people's pictures, finished or not."""

import sys

import pytest
import torch

from lookonce_scenes import evaluate, other_pictures
from lookonce_scenes.album import SEED_STEP
from lookonce_scenes.evaluate import EXERCISES, HELD_OUT_SEED, Score, load_model
from lookonce_scenes.forms import Exercise, Packer
from lookonce_scenes.model import build_model
from lookonce_scenes.objective import Objective
from lookonce_scenes.optimizer import save_state
from lookonce_scenes.other_pictures import COLORS, FORMS, draw_other_pictures, is_right
from lookonce_scenes.packing import CATEGORIES
from lookonce_scenes.tokenizer import IMAGE, IMAGE_TOKENS
from lookonce_scenes.train import FIRST_TRAINING_SEED

from .packed import answered


def test_an_answer_is_right_if_it_says_what_is_expected():
    assert is_right("a large red circle at the center", "red circle")
    assert is_right("Yes", "yes")
    assert is_right("2", "2")
    assert not is_right("", "circle")
    assert not is_right("No", "yes")
    assert not is_right("circles", "circle")
    assert not is_right("12", "2")


def test_other_peoples_pictures_ask_of_every_form_and_color_in_many_ways():
    pictures = list(draw_other_pictures())
    names = {picture.name for picture in pictures}
    assert len(names) == 24
    assert all(any(color in name for name in names) for color in COLORS)
    assert all(any(form in name for name in names) for form in FORMS)
    assert {picture.kind for picture in pictures} >= {"shape", "color", "negation", "foreign", "polite", "describe"}
    assert {picture.image.width for picture in pictures} >= {64, 112, 224}
    for picture in pictures:  # what is drawn is what is named
        shown = {color for _, color in picture.image.getcolors(100_000)}
        assert all(COLORS[word] in shown for word in picture.answer.split() if word in COLORS)


@pytest.mark.parametrize(("name", "share"), [("single, 20%", 0.2), ("single, none", 0.0), ("2 joined, 100%", 1.0)])
def test_a_share_of_the_image_tokens_is_what_every_question_sees(tokenizer, name, share):
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + 10):
        _, sample = Packer(tokenizer).pack(seed, EXERCISES[name])
        for question in answered(sample):
            if CATEGORIES[sample.kinds[question.segment]] in ("none", "description"):
                continue  # a describe turn sees all
            kept = sum(k for k, id_ in zip(question.kept.tolist(), question.ids, strict=True) if id_ == IMAGE)
            count = question.ids.count(IMAGE)
            assert share * count * 0.6 - 1 <= kept <= share * count * 1.5 + 24 * (0 < share < 1)
            assert count % IMAGE_TOKENS == 0


def test_what_is_measured_was_never_trained_on():
    assert HELD_OUT_SEED + 1_000_000 + 16 * SEED_STEP < FIRST_TRAINING_SEED


def test_scores_are_told_in_percent():
    right, asked = torch.zeros(len(CATEGORIES)), torch.zeros(len(CATEGORIES))
    right[CATEGORIES.index("count")], asked[CATEGORIES.index("count")] = 3, 4
    asked[CATEGORIES.index("color")] = 1
    assert str(Score(right, asked)) == "60.0  count 75 color 0"


def test_the_command_measures_the_state_of_a_training(tokenizer, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    model = build_model(len(tokenizer))
    save_state(tmp_path / "state.safetensors", Objective(model, tokenizer), None, 2, 0)
    loaded = load_model(tmp_path / "state.safetensors").state_dict()
    assert all(torch.equal(weights, loaded[name]) for name, weights in model.state_dict().items())
    some = list(draw_other_pictures())[:2]
    monkeypatch.setattr(evaluate, "draw_other_pictures", lambda: some)
    monkeypatch.setattr(evaluate, "EXERCISES", {"2 joined, 5%": Exercise("joined", 2, retention=0.05)})
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path / "state.safetensors"), "--pictures", "8", "--wrong"])
    evaluate.main()
    *wrong, others, joined = capsys.readouterr().out.splitlines()
    assert len(wrong) == 2
    assert others.startswith("other people's pictures: 0.0 of 2")
    assert joined.startswith("2 joined, 5%: ")
    assert other_pictures.COLORS["red"] == (255, 0, 0)

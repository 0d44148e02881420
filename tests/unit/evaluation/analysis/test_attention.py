"""The analysis from end to end: on scenes with the bundled model, and on pictures with a random Qwen2-VL."""

import json
from html.parser import HTMLParser

import pytest
import torch

from lookonce_evaluation.analysis.attention.figures import example
from lookonce_evaluation.analysis.attention.observe import (
    GROUPS,
    ROWS,
    WORD_ROWS,
    bands_of,
    groups_of,
    observe,
    record,
    shares,
)
from lookonce_evaluation.analysis.attention.summary import summarise
from lookonce_evaluation.cli import analyze
from lookonce_evaluation.data.scenes import held_out

from ....support.qwen2_vl import LAYERS

SEED = 600_000_000
PLOTS = ("shares", "maps", "words", "grounding")
HOSTILE = "'\"><img src=x onerror=alert(1)> &amp; {{ 7 * 7 }}.png"


@pytest.fixture(scope="module")
def seen(model):
    (case,) = held_out(1, SEED)
    return observe(model, case)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """What the command leaves of two scenes."""
    folder = tmp_path_factory.mktemp("scenes") / "out"
    assert analyze(["attention", "--images", "2", "--examples", "1", "--top-k", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, qwen2_vl):
    """What the command leaves of a picture of one's own, on a model with M-RoPE whose words mean nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    held_out(1, SEED)[0].image.resize((84, 56)).save(folder / HOSTILE)
    arguments = ["--model", qwen2_vl, "--images-folder", str(folder), "--examples", "1"]
    assert analyze(["attention", *arguments, "--out", str(folder / "out")]) == 0
    return folder / "out"


def result(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("rows", ROWS)
def test_shares_are_those_of_the_whole_attention(seen, rows):
    described = seen.described
    prompt, total = described.prompt, described.tokens
    start, stop = {
        "query": (int(prompt.image_positions[-1]) + 1, prompt.tokens),
        "generated": (prompt.tokens - 1, total),
    }[rows]
    weights = described.recorder.weights(range(start, stop), torch.arange(stop)).mean(1)
    found, even = shares(described, rows)
    assert torch.allclose(found.sum(1), torch.ones(len(weights)).double(), atol=1e-5)
    assert even.sum() == pytest.approx(1)
    image = GROUPS.index("image")
    assert torch.allclose(found[:, image], weights[:, prompt.image_positions].sum(1).double(), atol=1e-5)
    assert torch.allclose(found[:, 0], weights[:, 0].double(), atol=1e-6)
    assert (found[:, GROUPS.index("generated")] > 0).all() == (rows == "generated")
    assert even[0] == pytest.approx(sum(1 / (row + 1) for row in range(start, stop)) / (stop - start))


def test_every_token_is_of_one_kind():
    """As in InternVL: text between the tiles of an image."""
    found = groups_of(torch.tensor([2, 3, 5, 6]), 9, 11)
    assert [
        GROUPS[i] for i in found
    ] == "first system image image system image image query query generated generated".split()
    assert GROUPS[groups_of(torch.tensor([0, 1]), 4, 4)[0]] == "image"


def test_a_words_rows_are_the_one_that_gave_it_and_its_own(seen):
    described, first = seen.described, seen.words[0]
    assert described.text.startswith(first.text)
    tokens = described.prompt.tokens
    rows = described.recorder.weights(range(tokens - 1, tokens + 1), described.prompt.image_positions)
    assert len(first.tokens) == 1
    for i, kind in enumerate(WORD_ROWS):
        assert torch.allclose(seen.maps(first, kind), rows[:, i], atol=1e-7)
    assert not torch.allclose(rows[:, 0], rows[:, 1], atol=1e-3)


def test_a_scenes_results(scenes):
    found = result(scenes)
    assert found["units"] == [*range(8), "early (0-2)", "middle (3-4)", "late (5-7)", "scored (2-5)"]
    for rows in ROWS:
        assert [sum(layer) for layer in found["shares"][rows]["by_layer"]] == pytest.approx([1] * 8, abs=1e-3)
    everything = found["grounding"]["all"]
    assert everything["words"] == sum(found["grounding"][kind]["words"] for kind in ("size", "color", "kind", "place"))
    for measure in ("peak", "top", "iou", "mass"):
        values = everything["generating"][measure]
        assert len(values["own"]) == len(values["other"]) == 12
        assert all(0 <= value <= 1 for value in values["own"])
    (shown,) = found["examples"]
    assert all(len(patches) == 2 for word in shown["words"] for patches in word["patches"].values())
    assert (scenes / "table.md").read_text().count("| all |") == 4
    for name in PLOTS:
        assert (scenes / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_words_look_at_their_objects_and_not_at_others(scenes):
    """Not a measurement: rows or masks that are mixed up fail it."""
    found = result(scenes)["grounding"]["all"]
    peak = found["generating"]["peak"]
    middle = result(scenes)["units"].index("middle (3-4)")
    assert peak["own"][middle] > 0.5 > 0.3 > peak["other"][middle]
    assert found["chance"]["peak"] < 0.1


def test_pictures_of_ones_own_have_all_but_grounding(pictures):
    found = result(pictures)
    assert found["grounding"] == {}
    for rows in ROWS:
        layers = found["shares"][rows]["by_layer"]
        assert [sum(layer) for layer in layers] == pytest.approx([1] * LAYERS, abs=1e-3)
    (shown,) = found["examples"]
    assert shown["name"] == HOSTILE
    patches = [one for word in shown["words"] for found in word["patches"].values() for one in found]
    assert patches
    assert all(patch["row"] < 2 and patch["column"] < 3 for patch in patches)
    assert "Not measured: these are pictures of your own" in (pictures / "attention.html").read_text()
    assert not (pictures / "grounding.png").exists()
    assert (pictures / "table.md").read_text().count("divided evenly") == 1


def test_where_tokens_are_not_known_to_be_nothing_is_grounded(model, monkeypatch):
    """As with processors that cut pictures into tiles: no figures, and maps without the picture."""
    monkeypatch.setattr(model, "framing", None)
    one = observe(model, held_out(1, SEED)[0])
    bands = bands_of(model.num_layers, range(1))
    assert record(one, bands, 3)["grounding"] is None
    shown = example(one, bands, 3)
    assert shown.words
    assert {overlay.on_object for word in shown.words for overlay in word.overlays} == {None}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.images, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag != "script"
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.texts.append(data)


def test_a_hostile_file_name_is_only_text(pictures):
    page = Page((pictures / "attention.html").read_text())
    assert page.texts.count(HOSTILE) == 2
    assert f"The picture {HOSTILE}" in [image["alt"] for image in page.images]
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)


def test_what_is_no_picture_is_one_line(tmp_path, capsys):
    (tmp_path / "notes.png").write_text("no picture")
    assert analyze(["attention", "--images-folder", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"lookonce analyze attention: {tmp_path / 'notes.png'}: ")


def record_of(words: int, own: float):
    unit = {"own": [[own]] * 4, "other": [[0.0]] * 4, "image": [0.5 * words]}
    one = {"words": words, "compared": 0, "chance": [0.1 * words] * 4, "generating": unit, "reading": unit}
    share = {"attention": [[0.2, 0, 0.8, 0, 0]], "even": [0.1, 0, 0.9, 0, 0]}
    return {"shares": dict.fromkeys(ROWS, share), "grounding": {"mentions": 2, "right": 1, "classes": {"kind": one}}}


def test_words_count_alike_and_images_are_what_varies():
    """Two images of one word, two of three; where all have as many, the interval is that of a mean over images."""
    found = summarise([record_of(1, 1), record_of(3, 1), record_of(1, 0), record_of(3, 3)])
    kind = found.classes["kind"]
    assert (found.images, found.mentions, found.right, kind.words, kind.compared) == (4, 8, 4, 8, 0)
    assert kind.own["generating"].tolist() == [[5 / 8]] * 4
    assert kind.chance.tolist() == pytest.approx([0.1] * 4)
    assert kind.image["generating"].tolist() == [0.5]
    assert kind.other["generating"].isnan().all()
    assert found.classes["all"].words == 8
    same = summarise([record_of(1, value) for value in (1, 0, 0, 1)]).classes["kind"]
    assert float(same.error["generating"][0, 0]) == pytest.approx(1.96 * torch.tensor([1.0, 0, 0, 1]).std() / 2)

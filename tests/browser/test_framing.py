"""The overlay lies on the part of the picture that the model saw."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from lookonce_pruning import TileBlock, TileLayout
from lookonce_scenes import CHECKPOINT

from ..support.server_process import MODEL, LookonceServer
from .acting import file, pick_file, wait_for_context

WIDE = (320, 160)


@pytest.fixture
def serving(tmp_path: Path) -> Callable[[dict], LookonceServer]:
    """A function that makes a server of the bundled model with other settings of its image processor."""

    def make(settings: dict) -> LookonceServer:
        folder = tmp_path / "model"
        shutil.copytree(CHECKPOINT, folder)
        config = folder / "processor_config.json"
        processor = json.loads(config.read_text(encoding="utf-8"))
        processor["image_processor"] |= settings
        config.write_text(json.dumps(processor), encoding="utf-8")
        return LookonceServer("--model", str(folder), "--served-name", MODEL)

    return make


def wide_picture() -> bytes:
    found = io.BytesIO()
    Image.radial_gradient("L").resize(WIDE).save(found, "PNG")
    return found.getvalue()


def shares(visit) -> list[float]:
    """Left, top, width and height of the overlay, as shares of the picture's."""
    page = visit.open()
    page.locator("#file").set_input_files(file("wide.png", wide_picture(), "image/png"))
    wait_for_context(page)
    expect(page.locator("#overlay .kept rect")).not_to_have_count(0)
    inner, outer = (page.locator(f"#{name}").bounding_box() for name in ("overlay", "image"))
    horizontal = [(inner["x"] - outer["x"]) / outer["width"], inner["width"] / outer["width"]]
    vertical = [(inner["y"] - outer["y"]) / outer["height"], inner["height"] / outer["height"]]
    return [horizontal[0], vertical[0], horizontal[1], vertical[1]]


def test_where_that_is_not_known_nothing_is_marked(visit):
    """As with processors that are not known. No model of that kind is at hand: the reply is made up."""
    page = visit.open()
    page.route("**/playground/area.json?*", lambda route: route.fulfill(body="null"))
    pick_file(page, 601)
    expect(page.locator("#no-area")).to_be_visible()
    expect(page.locator("#overlay rect")).to_have_count(0)
    assert "of 196 tokens" in page.locator("#share-said").inner_text()


def test_tokens_in_tiles_are_marked_in_their_boxes(visit):
    """No model that cuts pictures into tiles is at hand: the reply is the bundled model's, with the boxes of one."""
    layout = TileLayout((TileBlock(1, 3, 7, 7, 0, 0.0, 0.0, 1.0, 1.0), TileBlock(1, 1, 7, 6, 1, 0.0, 0.0, 1.0, 1.0)))
    boxes, kept = layout.boxes().tolist(), [0, 50, 146, 148]  # the last one lies over the first

    def in_tiles(route):
        reply = route.fetch()
        route.fulfill(response=reply, json=reply.json() | {"grid": [1, 196], "boxes": boxes, "kept": kept})

    page = visit.open()
    page.route("**/playground/area.json?*", lambda route: route.fulfill(body="null"))
    page.route("**/v1/contexts/*/tokens*", in_tiles)
    page.locator("#file").set_input_files(file("wide.png", wide_picture(), "image/png"))
    wait_for_context(page)
    marks = page.locator("#overlay .kept rect")
    expect(marks).to_have_count(len(kept))
    expect(page.locator("#no-area")).to_be_hidden()
    image = page.locator("#image").bounding_box()
    for token, mark in zip(kept, marks.all(), strict=True):
        box, (left, top, right, bottom) = mark.bounding_box(), boxes[token]
        found = [(box["x"] - image["x"]) / image["width"], (box["y"] - image["y"]) / image["height"]]
        size = [box["width"] / image["width"], box["height"] / image["height"]]
        assert [*found, *size] == pytest.approx([left, top, right - left, bottom - top], abs=0.02)
    expect(page.locator("#overlay .heat rect")).to_have_count(196)
    expect(page.locator("#overlay mask path")).to_have_count(1 + len(kept))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 0, 1, 1]),
        (
            {"do_center_crop": True, "size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}},
            [0.25, 0, 0.5, 1],
        ),
    ],
    ids=["squeezed", "cropped"],
)
def test_tokens_are_marked_where_the_model_saw_them(visiting, serving, settings, expected):
    with serving(settings) as server:
        assert shares(visiting(server)) == pytest.approx(expected, abs=0.01)

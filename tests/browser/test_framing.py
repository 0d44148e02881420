"""The overlay lies on the part of the picture that the model saw."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

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
    """As with processors that cut pictures into tiles. No model of that kind is at hand: the reply is made up."""
    page = visit.open()
    page.route("**/playground/area.json?*", lambda route: route.fulfill(body="null"))
    pick_file(page, 601)
    expect(page.locator("#no-area")).to_be_visible()
    expect(page.locator("#overlay rect")).to_have_count(0)
    assert "of 196 tokens" in page.locator("#share-said").inner_text()


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

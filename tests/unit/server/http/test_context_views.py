"""What a context keeps of its image, in numbers and as a picture: the truth, and nothing is made for it."""

import base64
import io
from dataclasses import replace

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from lookonce_cache import ContextKey
from lookonce_pruning import ImageScores, TileBlock, TileLayout, get_selection
from lookonce_server.app import running_app
from lookonce_server.engines.geometry import Area
from lookonce_server.sessions.heatmap import TokenMap, draw_grid, draw_over
from lookonce_server.settings import Settings

from ....support.samples import TENANT, encoded, picture, png

pytestmark = pytest.mark.anyio
SIDE, GRID = 448, 14
CELL = SIDE // GRID


@pytest.fixture(scope="module")
async def app():
    async with running_app(Settings(describe_tokens=24)) as app:
        yield app


@pytest.fixture
async def client(app):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=60) as made:
        yield made


async def prepared(client, image: bytes = png(110), **fields: str) -> dict:
    reply = await client.post("/v1/contexts", files={"image": ("a.png", image)}, data=fields)
    return reply.raise_for_status().json()


@pytest.fixture
async def context(client) -> dict:
    return await prepared(client)


def path(context: dict, view: str) -> str:
    return f"/v1/contexts/{context['id']}/{view}"


def image_of(reply: httpx2.Response) -> Image.Image:
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png"), reply.text
    return Image.open(io.BytesIO(reply.content))


def framed(canvas: Image.Image, area: tuple[int, int, int, int] = (0, 0, SIDE, SIDE)) -> list[int]:
    """The tokens of a 14 x 14 grid that are framed."""
    pixels = np.asarray(canvas.crop(area).resize((SIDE, SIDE), Image.Resampling.NEAREST)).astype(int)
    corners = pixels[::CELL, ::CELL].sum(axis=-1)  # each cell's first pixel
    return np.flatnonzero(corners == 0).tolist()


# --- numbers ----------------------------------------------------------------------------------------------------------


async def test_tokens_are_those_of_the_stored_context(client, app, context):
    tokens = (await client.get(path(context, "tokens"))).json()
    stored = (await app.state.parts.store.get(ContextKey(TENANT, context["id"]))).context
    assert tokens == {
        "id": context["id"],
        "object": "context.tokens",
        "grid": [GRID, GRID],
        "boxes": None,
        "scores": stored.scores.tolist(),
        "kept": stored.kept_indices[0].tolist(),
        "retention": 0.05,
        "selection": "coverage",
    }
    assert len(tokens["kept"]) == context["kept_tokens"]


@pytest.mark.parametrize("retention", [0.01, 0.1, 0.2])
async def test_a_preview_is_what_a_context_of_that_retention_keeps(client, context, retention):
    preview = (await client.get(path(context, "tokens"), params={"retention": retention})).json()
    before = (await client.get("/v1/contexts/stats")).json()
    other = await prepared(client, retention=str(retention))
    kept = (await client.get(path(other, "tokens"))).json()
    assert (preview["kept"], preview["retention"]) == (kept["kept"], retention)
    assert preview["id"] == context["id"] != other["id"]
    assert before["contexts"] >= 1


async def test_a_preview_may_be_of_any_retention(client, context):
    """Nothing is made, so what contexts are limited to does not matter."""
    preview = (await client.get(path(context, "tokens"), params={"retention": 1})).json()
    assert preview["kept"] == list(range(GRID * GRID))


async def test_looking_is_no_use(client, context):
    context = await prepared(client, png(111), ttl="500")
    for view in ("tokens", "heatmap.png"):
        assert (await client.get(path(context, view))).status_code == 200
    again = (await client.get(f"/v1/contexts/{context['id']}")).json()
    assert abs(again["expires_at"] - context["expires_at"]) <= 1


async def test_a_selection_that_ranks_in_every_layer_cannot_be_previewed():
    settings = Settings(selection="attention-per-layer", window="all", describe_tokens=8)
    async with running_app(settings) as app:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            context = await prepared(client)
            kept = (await client.get(path(context, "tokens"))).json()["kept"]
            stored = await app.state.parts.store.peek(ContextKey(TENANT, context["id"]))
            assert kept == sorted({index for row in stored.kept_indices.tolist() for index in row})
            assert len(kept) > context["kept_tokens"]
            same = await client.get(path(context, "tokens"), params={"retention": 0.05})
            assert same.json()["kept"] == kept
            for view in ("tokens", "heatmap.png"):
                reply = await client.get(path(context, view), params={"retention": 0.1})
                assert (reply.status_code, reply.json()["error"]["param"]) == (400, "retention")
                assert "attention-per-layer" in reply.json()["error"]["message"]


# --- tiles ------------------------------------------------------------------------------------------------------------

LAYOUT = TileLayout((TileBlock(1, 3, 7, 7, 0, 0.0, 0.0, 1.0, 1.0), TileBlock(1, 1, 7, 7, 0, 0.0, 0.0, 1.0, 1.0)))


@pytest.fixture
async def tiled(app, client, monkeypatch) -> dict:
    """A context of three tiles and a thumbnail, of a model whose processor says nothing of a crop."""
    made = await prepared(client, png(114))
    store, engine = app.state.parts.store, app.state.parts.engine
    context = (await store.get(ContextKey(TENANT, made["id"]))).context
    await store.put(replace(context, grid=(1, 196), layout=LAYOUT.blocks))
    monkeypatch.setattr(engine, "facts", replace(engine.facts, image_crop=None))
    return made


async def test_tokens_in_tiles_have_boxes(client, tiled):
    tokens = (await client.get(path(tiled, "tokens"))).json()
    assert tokens["grid"] == [1, 196]
    assert np.abs(np.array(tokens["boxes"]) - LAYOUT.boxes().numpy()).max() < 1e-6


async def test_a_preview_of_tiles_goes_by_what_they_show(client, tiled):
    tokens = (await client.get(path(tiled, "tokens"), params={"retention": 0.2})).json()
    scores = ImageScores(torch.tensor([tokens["scores"]]), (0,), (1, 196), 1, LAYOUT)
    assert tokens["kept"] == get_selection("coverage").select(scores, 40)[0].tolist()
    assert tokens["kept"] != get_selection("coverage").select(replace(scores, layout=None), 40)[0].tolist()


@pytest.mark.parametrize("retention", [0.01, 0.1])
async def test_the_map_of_tiles_frames_what_is_kept_where_it_lies(client, tiled, retention):
    query = {"retention": retention, "width": 420}
    kept = (await client.get(path(tiled, "tokens"), params=query)).json()["kept"]
    files = {"image": ("a.png", png(114))}
    over = image_of(await client.post(path(tiled, "heatmap.png"), params=query, files=files))
    bare = image_of(await client.get(path(tiled, "heatmap.png"), params=query))
    assert (over.size, bare.size) == ((420, 420), (420, 140))  # bare: as wide and high as its cells
    for canvas in (over, bare):
        pixels = np.asarray(canvas).astype(int).sum(axis=-1)
        for left, top, _, _ in LAYOUT.boxes()[kept].tolist():
            assert pixels[round(top * canvas.height), round(left * canvas.width)] == 0


def test_the_map_of_tiles_shows_the_higher_of_two_scores():
    scores = np.full(196, 0.25, np.float32)
    scores[[0, 147 + 48]] = 1  # the first of the tiles, and the last of the thumbnail
    drawn = pixels(draw_grid(TokenMap.of_layout(scores, [], LAYOUT), 210))
    bright = (drawn == [0xFD, 0xE7, 0x25]).all(axis=-1)
    assert bright[:10, :10].all()
    assert bright[60:, 180:].all()
    assert bright.sum() == 100 + 300


def test_the_frames_of_a_video_in_tiles_are_side_by_side():
    layout = TileLayout((TileBlock(1, 1, 2, 2, 1, -0.5, 0.0, 1.5, 1.0),))
    scores = np.zeros(18, np.float32)
    scores[[1, 6, 16]] = 1
    drawn = pixels(draw_grid(TokenMap.of_layout(scores, [], layout, frames=3), 120))
    bright = (drawn[::20, ::20] == [0xFD, 0xE7, 0x25]).all(axis=-1)
    assert bright.tolist() == [[False, True, True, False, False, False], [False, False, False, False, False, True]]


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retention", [None, 0.1])
async def test_the_map_frames_what_is_kept(client, context, retention):
    query = {} if retention is None else {"retention": retention}
    kept = (await client.get(path(context, "tokens"), params=query)).json()["kept"]
    bare = image_of(await client.get(path(context, "heatmap.png"), params=query))
    files = {"image": ("a.png", png(110))}
    over = image_of(await client.post(path(context, "heatmap.png"), params=query, files=files))
    assert bare.size == over.size == (SIDE, SIDE)
    assert framed(bare) == framed(over) == kept
    url = f"data:image/png;base64,{base64.b64encode(png(110)).decode()}"
    same = await client.post(path(context, "heatmap.png"), params=query, json={"image_url": url})
    assert image_of(same).tobytes() == over.tobytes()


async def test_the_map_is_the_same_each_time_and_has_the_width_asked_for(client, context):
    first, second = [await client.get(path(context, "heatmap.png"), params={"width": 301}) for _ in range(2)]
    assert first.content == second.content
    assert image_of(first).size == (301, 301)


async def test_the_map_lies_on_the_picture_as_the_model_saw_it(client):
    """Turned by its EXIF data; squeezed to a square by this model's processor, so the grid is over the whole of it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image = encoded(picture(112).resize((300, 150)), "JPEG", exif=exif)
    context = await prepared(client, image)
    kept = (await client.get(path(context, "tokens"))).json()["kept"]
    files = {"image": ("a.jpg", image)}
    over = image_of(await client.post(path(context, "heatmap.png"), params={"width": SIDE}, files=files))
    assert over.size == (SIDE, 2 * SIDE)
    assert framed(over.resize((SIDE, SIDE), Image.Resampling.NEAREST)) == kept


@pytest.mark.parametrize("image", [png(113), png(110) + b"\0", b""], ids=["another", "other bytes", "empty"])
async def test_no_map_is_drawn_over_another_picture(client, context, image):
    reply = await client.post(path(context, "heatmap.png"), files={"image": ("a.png", image)})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "image")


async def test_no_map_is_drawn_where_the_processor_is_not_known(client, app, context, monkeypatch):
    engine = app.state.parts.engine
    monkeypatch.setattr(engine, "facts", replace(engine.facts, image_crop=None))
    reply = await client.post(path(context, "heatmap.png"), files={"image": ("a.png", png(110))})
    assert (reply.status_code, "are unknown" in reply.text) == (400, True)
    assert (await client.get(path(context, "heatmap.png"))).status_code == 200


@pytest.mark.parametrize("view", ["tokens", "heatmap.png"])
@pytest.mark.parametrize(
    ("query", "param"),
    [({"retention": 0}, "retention"), ({"retention": 1.1}, "retention"), ({"retention": "x"}, "retention")],
)
async def test_wrong_queries_are_named(client, context, view, query, param):
    reply = await client.get(path(context, view), params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("width", [15, 2049, "x"])
async def test_widths_are_bounded(client, context, width):
    reply = await client.get(path(context, "heatmap.png"), params={"width": width})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "width")


async def test_what_is_not_there_is_not_found(client):
    for context_id in ("0" * 64, "x"):
        replies = [await client.get(f"/v1/contexts/{context_id}/{view}") for view in ("tokens", "heatmap.png")]
        url = f"data:image/png;base64,{base64.b64encode(png(110)).decode()}"
        replies.append(await client.post(f"/v1/contexts/{context_id}/heatmap.png", json={"image_url": url}))
        for reply in replies:
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "context_not_found")


# --- drawing ----------------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 1, 196, dtype=np.float32)
GREY = Image.new("RGB", (200, 100), (128, 128, 128))


def ramp_over(area: Area) -> TokenMap:
    """The ramp over an area in pixels of the grey picture."""
    return TokenMap.of_grid(RAMP, [], (14, 14), area.shares(*GREY.size))


def pixels(png_: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png_))).astype(int)


def test_colours_run_from_the_lowest_score_to_the_highest():
    drawn = pixels(draw_grid(TokenMap.of_grid(RAMP, [], (14, 14)), 140))
    assert drawn[0, 0].tolist() == [0x44, 0x01, 0x54]
    assert drawn[-1, -1].tolist() == [0xFD, 0xE7, 0x25]
    luminance = drawn[5::10, 5::10].reshape(196, 3) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > -0.6).all()  # but for rounding


def test_equal_scores_are_no_failure():
    assert pixels(draw_grid(TokenMap.of_grid(np.zeros(6, np.float32), [0], (2, 3)), 30)).shape == (24, 30, 3)


def test_what_was_cropped_away_has_no_colour():
    drawn = pixels(draw_over(GREY, ramp_over(Area(50, 0, 150, 100)), 200))
    is_grey = (drawn == 128).all(axis=-1)
    assert is_grey[:, :50].all()
    assert is_grey[:, 150:].all()
    assert not is_grey[:, 50:150].any()


def test_what_is_padding_is_not_drawn():
    """Only the middle half of the grid is over the picture."""
    square = Image.new("RGB", (200, 200), (128, 128, 128))
    whole = pixels(draw_over(square, TokenMap.of_grid(RAMP, [], (14, 14)), 200))
    drawn = pixels(draw_over(GREY, ramp_over(Area(0, -50, 200, 150)), 200))
    assert (drawn == whole[50:150]).all()


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 2)])
@pytest.mark.parametrize("grid", [(14, 14), (1, 2928), (300, 2)])
def test_odd_shapes_stay_within_bounds(size, grid):
    scores, kept, longest = np.ones(grid[0] * grid[1], np.float32), [0, grid[0] * grid[1] - 1], max(size)
    area = Area(-longest, -longest, 2 * longest, 2 * longest).shares(*size)
    for drawn in (
        draw_grid(TokenMap.of_grid(scores, kept, grid), 2048),
        draw_over(Image.new("RGB", size), TokenMap.of_grid(scores, kept, grid, area), 2048),
    ):
        height, width, _ = pixels(drawn).shape
        assert 1 <= width <= 2048
        assert 1 <= height <= 4096

"""Serve the playground at `/`, the monitor at `/monitor` and Swagger UI at `/docs`.

The pages load nothing from other hosts.
"""

import io
import random
from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.responses import FileResponse, Response
from PIL import Image
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from lookonce_scenes.album import SEED_STEP, Album, sample_album
from lookonce_scenes.questions import OPEN, Question
from lookonce_scenes.video import Video, sample_video
from lookonce_scenes.world import Scene, render, sample_scene
from lookonce_server.http.state import state_of
from lookonce_server.settings import BUNDLED

router = APIRouter(include_in_schema=False)

_PAGES = FilePath(__file__).parents[2] / "playground"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # revalidated by its ETag each time
}
_SCENES_END = 1_000_000_000  # the bundled model was trained on the scenes from here on

_ALBUM_PICTURES = 2
_VIDEO_FRAMES = 6

SceneNumber = Annotated[int, Path(ge=0, lt=_SCENES_END)]
AlbumNumber = Annotated[int, Path(ge=0, lt=_SCENES_END - _ALBUM_PICTURES * SEED_STEP)]
AlbumPicture = Annotated[int, Path(ge=1, le=_ALBUM_PICTURES)]
VideoFrame = Annotated[int, Path(ge=1, le=_VIDEO_FRAMES)]
Side = Annotated[int, Query(ge=1, le=1_000_000, description="in pixels")]


class _WholeFile:
    """Send files always whole: Starlette answers odd ranges in plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a file."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)  # type: ignore[misc]  # a mixin


class _Page(_WholeFile, FileResponse):
    """A page."""


class _Assets(_WholeFile, StaticFiles):
    """The pages' assets, with the pages' headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response


def mount_assets(app: FastAPI) -> None:
    """Add the pages' assets to an app."""
    # Of fastapi_offline only the folder is used: Swagger UI's own files, which FastAPI would load from a CDN.
    folders: list[str | tuple[str, str]] = [
        ("lookonce_server", "playground/assets"),
        ("fastapi_offline", "static"),
    ]
    app.mount("/playground/assets", _Assets(packages=folders))


@router.api_route("/", methods=["GET", "HEAD"])
def page() -> Response:
    """Return the playground."""
    return _Page(_PAGES / "index.html", headers=_HEADERS)


@router.api_route("/monitor", methods=["GET", "HEAD"])
def monitor() -> Response:
    """Return the page that watches this server; its figures are `/monitor/data.json`."""
    return _Page(_PAGES / "monitor.html", headers=_HEADERS)


@router.api_route("/docs", methods=["GET", "HEAD"])
def docs() -> Response:
    """Return Swagger UI."""
    return _Page(_PAGES / "docs.html", headers=_HEADERS)


@router.get("/playground/settings.json")
def settings(request: Request) -> dict[str, Any]:
    """Return the settings that the playground needs."""
    state = state_of(request)
    names = ("retention", "min_retention", "max_retention", "max_image_bytes", "max_images", "max_frames")
    values = {name: getattr(state.settings, name) for name in names}
    return {"model": state.served_name, "bundled": state.settings.model == BUNDLED} | values


@router.get("/playground/area.json")
def area(request: Request, width: Side, height: Side) -> dict[str, float] | None:
    """Return the area of a picture that the image tokens cover, in its pixels.

    Null if the area is not known.
    """
    image_crop = state_of(request).engine.facts.image_crop
    return image_crop.area(width, height)._asdict() if image_crop else None


@router.get("/playground/scenes/{number}.png")
def scene_picture(number: SceneNumber) -> Response:
    """Draw a scene that the bundled model was not trained on."""
    return _png(_scene(number))


@router.get("/playground/scenes/{number}.json")
def scene_questions(number: SceneNumber) -> list[dict[str, str]]:
    """Return questions about a drawn scene, each with its only right answer."""
    scene = _scene(number)
    rng = random.Random(number)  # noqa: S311 - not for secrets
    questions = [asker(scene, rng) for asker in OPEN.values()]
    return _as_json(question for question in questions if question)


@router.get("/playground/albums/{number}.json")
def album(number: AlbumNumber) -> dict[str, Any]:
    """Return the pictures of an album, and questions across them with their only right answers."""
    drawn = _album(number)
    return _example(f"playground/albums/{number}", len(drawn.scenes), drawn.questions)


@router.get("/playground/albums/{number}/{at}.png")
def album_picture(number: AlbumNumber, at: AlbumPicture) -> Response:
    """Draw one of an album's scenes."""
    return _png(_album(number).scenes[at - 1])


@router.get("/playground/videos/{number}.json")
def video(number: SceneNumber) -> dict[str, Any]:
    """Return the frames of a moving scene, and questions with their only right answers."""
    drawn = _video(number)
    return _example(f"playground/videos/{number}", len(drawn.frames), drawn.questions)


@router.get("/playground/videos/{number}/{at}.png")
def video_frame(number: SceneNumber, at: VideoFrame) -> Response:
    """Draw one of a moving scene's frames."""
    return _png(_video(number).frames[at - 1])


def _example(folder: str, count: int, questions: Iterable[Question]) -> dict[str, Any]:
    """Name the pictures of an example, numbered from 1, with questions about all of them."""
    pictures = [f"{folder}/{at}.png" for at in range(1, count + 1)]
    return {"pictures": pictures, "questions": _as_json(questions)}


def _as_json(questions: Iterable[Question]) -> list[dict[str, str]]:
    return [{"text": question.text, "answer": question.answer} for question in questions]


def _png(scene: Scene) -> Response:
    png = io.BytesIO()
    Image.fromarray(render(scene)).save(png, "PNG")
    return Response(png.getvalue(), media_type="image/png", headers=_HEADERS)


def _album(number: int) -> Album:
    return sample_album(number, _ALBUM_PICTURES, questions=6)


def _video(number: int) -> Video:
    return sample_video(number, _VIDEO_FRAMES, questions=6)


def _scene(number: int) -> Scene:
    return sample_scene(number, min_objects=3)

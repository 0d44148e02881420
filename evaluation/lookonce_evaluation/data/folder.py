"""Folders of pictures, and files with a record a line."""

from pathlib import Path

from PIL import Image

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import ImageLimits, decode_image


def is_picture(path: Path) -> bool:
    """Tell whether a file's name is a picture's."""
    return path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def pictures(folder: Path) -> list[Path]:
    """List the pictures in a folder, by name; EvaluationError where there are none."""
    paths = sorted(filter(is_picture, folder.glob("*")))
    if not paths:
        raise EvaluationError(f"{folder}: expected a folder with .png, .jpg or .webp pictures in it")
    return paths


def decode(name: str, data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode a picture as the server would; EvaluationError names it."""
    try:
        return decode_image(data, limits, name)
    except InvalidImageError as error:
        raise EvaluationError(f"{name}: {error}") from error


def read_picture(path: Path) -> Image.Image:
    """Read and decode a picture; EvaluationError where it cannot be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path}: {error}") from error
    return decode(str(path), data, ImageLimits())


def in_folder(folder: Path, count: int) -> list[Case]:
    """Read the first `count` pictures of a folder, by name; they have no questions."""
    return [Case(path.name, read_picture(path), {}, {}) for path in pictures(folder)[:count]]


def read_lines(option: str, path: Path, expected: str) -> list[tuple[str, str]]:
    """Read the lines of a file that are not empty, each with where it stands.

    Raises:
        EvaluationError: it cannot be read, or has no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{option} {path}: it cannot be read: {error}") from error
    items = [(f"{option} {path}, line {number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise EvaluationError(f"{option} {path}: expected {expected} a line, and it holds none")
    return items

"""Picture files in a folder."""

from pathlib import Path

from lookonce_evaluation.errors import EvaluationError


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, by name.

    Raises:
        EvaluationError: there are none.
    """
    found = sorted(filter(is_picture, folder.glob("*")))
    if not found:
        raise EvaluationError(f"{folder}: expected a folder with .png, .jpg or .webp pictures in it")
    return found


def is_picture(path: Path) -> bool:
    """Whether a file's name is a picture's."""
    return path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")

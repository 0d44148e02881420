"""What every client's script is told, and what it tells: run by `test_clients` with an interpreter of its own."""

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """What to ask, and of whom."""

    base_url: str
    model: str
    picture: Path
    text: str  # a question without an image
    question: str  # about the picture

    @property
    def url(self) -> str:
        """The picture as a URL."""
        return "data:image/png;base64," + base64.b64encode(self.picture.read_bytes()).decode()


def asked() -> Asked:
    """From the command line."""
    parser = argparse.ArgumentParser()
    for name in Asked._fields:
        parser.add_argument(name)
    given = vars(parser.parse_args())
    return Asked(**given | {"picture": Path(given["picture"])})


def tell(**found: Any) -> None:
    """What came back, for the test."""
    json.dump(found, sys.stdout)


def error_of(error: Exception) -> dict[str, Any]:
    """What the client made of a refusal."""
    return {"kind": type(error).__name__, "status": getattr(error, "status_code", None), "message": str(error)}


def schema() -> dict[str, Any]:
    """A JSON Schema whose answers end."""
    properties = {"color": {"enum": ["red", "green", "blue"]}, "seen": {"type": "boolean"}}
    return {"type": "object", "properties": properties, "required": ["color", "seen"], "additionalProperties": False}


# Prompts that no model of the tests takes: by the count of their tokens, and by their characters alone.
TOO_LONG = ("red " * 5000, "x" * 140_000)

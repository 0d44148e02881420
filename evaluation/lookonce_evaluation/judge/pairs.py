"""Pairs of descriptions, read from files of JSON lines, and the fixed set that judges are held to."""

import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.judge.protocol import Score


class Pair(BaseModel):
    """A description, and what became of it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    original: str
    altered: str
    way: str = "altered"  # pairs of one way are counted together


class Known(NamedTuple):
    """A pair whose counts are known, made by hand."""

    what: str  # what is altered
    original: str
    altered: str
    counts: Score


def read_pairs(path: Path) -> list[Pair]:
    """The pairs in a file, one a line.

    Raises:
        EvaluationError: it cannot be read, holds none, or a line is no pair.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"--pairs {path}: it cannot be read: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            pairs.append(Pair.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{name}: " for name in first["loc"])
            raise EvaluationError(
                f"--pairs {path}, line {number}: {where}{first['msg']}; expected a JSON object with 'original' and"
                " 'altered', and 'way' if you like"
            ) from error
    if not pairs:
        raise EvaluationError(f"--pairs {path}: expected a pair of descriptions a line; it holds none")
    return pairs


def fixed_set() -> list[Known]:
    """Thirty pairs in the scenes' words, with the counts that a person made of them."""
    text = (files("lookonce_evaluation.judge") / "fixed_set.jsonl").read_text(encoding="utf-8")
    found = map(json.loads, text.splitlines())
    return [Known(f["what"], f["original"], f["altered"], Score(f["tp"], f["fp"], f["fn"])) for f in found]

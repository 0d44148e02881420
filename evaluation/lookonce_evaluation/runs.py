"""Runs: results by item, kept as they come, so that a command can resume."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import lookonce_evaluation
import lookonce_pruning
import lookonce_scenes
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.progress import bar
from lookonce_server import engines

T = TypeVar("T")
_NAME = attrgetter("name")
_PACKAGES = (lookonce_evaluation, lookonce_pruning, lookonce_scenes, engines)
JSON = Any
"""What `json` writes and reads back equal: no NaN, no tuples, keys that are strings."""


class Run:
    """Keep an evaluation's results by item, in a file of JSON lines.

    The first line holds `config`. Invariant: a result is in the file whole or not at all, and every result answers it.

    Args:
        folder: of the run's files; created if it is missing.
        config: what the results depend on beside the items and the code: the command, the checkpoint, the methods.

    Raises:
        EvaluationError: the folder holds the results of another question.
    """

    def __init__(self, folder: Path, config: Mapping[str, JSON]) -> None:
        self.folder = folder
        self._config = json.loads(json.dumps({**config, "code": _code()}, allow_nan=False))
        self._path = folder / "records.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._done = self._read() if self._path.exists() else {}
        self._write()

    def over(
        self,
        items: Sequence[T],
        work: Callable[[T], JSON],
        *,
        name: Callable[[T], str] = _NAME,
        label: str = "",
    ) -> list[JSON]:
        """Compute the results that are missing, and return all, in order.

        Args:
            items: each gives one result.
            work: computes it.
            name: of an item in the run's file.
            label: of the progress bar; the folder's name by default.
        """
        missing = {name(item): item for item in items if name(item) not in self._done}
        done = len(items) - len(missing)
        with self._path.open("a") as file:
            for key in bar(missing, total=len(items), done=done, label=label or self.folder.name):
                result = json.dumps(work(missing[key]), allow_nan=False)
                file.write(f"{json.dumps(key)}\t{result}\n")
                file.flush()
                self._done[key] = json.loads(result)
        return [self._done[name(item)] for item in items]

    def write(self, name: str, text: str) -> None:
        """Write one of the run's other files, and print its path."""
        path = self.folder / name
        path.write_text(text.rstrip() + "\n")
        print(f"wrote {path}")

    def write_json(self, name: str, value: JSON) -> None:
        """Write one of the run's other files as JSON."""
        self.write(name, json.dumps(value, indent=1, allow_nan=False))

    def _read(self) -> dict[str, JSON]:
        """Read the results; a run that was killed may leave a torn last line."""
        first, *lines = self._path.read_text().split("\n")
        config = _parsed(first)
        if config != self._config:
            raise EvaluationError(
                f"--out {self.folder}: it holds the results of another run ({_differences(config, self._config)}); give"
                " another folder, or delete it"
            )
        pairs = [line.partition("\t") for line in lines[:-1]]  # after the last newline there is nothing, or a torn line
        return {_parsed(key): _parsed(result) for key, _, result in pairs}

    def _write(self) -> None:
        """Replace the file by a whole one."""
        lines = [json.dumps(self._config), *(f"{json.dumps(k)}\t{json.dumps(v)}" for k, v in self._done.items())]
        new = self._path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self._path)


@cache
def _code() -> str:
    """Compute a digest of the code that results depend on."""
    total = hashlib.blake2b(digest_size=8)
    for package in _PACKAGES:
        for name in package.__path__:
            for path in sorted(Path(name).rglob("*.py")):
                total.update(path.relative_to(name).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _parsed(text: str) -> JSON:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _differences(theirs: JSON, ours: Mapping[str, JSON]) -> str:
    if not isinstance(theirs, dict):
        return "or none that can be read"
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return "; ".join(f"{name}: {theirs.get(name)!r}, now {ours.get(name)!r}"[:200] for name in names)

"""Profiles: the describe options that were measured to be right for one checkpoint, in a file of JSON.

`lookonce calibrate` writes them, and the server reads them (`--profile`).
"""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lookonce_pruning import SELECTIONS, ScoreQueries, UnknownSelectionError, get_selection
from lookonce_server.errors import ProfileError

MOST_BYTES = 64 * 1024  # of a file: a profile has about one KiB
MOST_PROMPT = 6000  # characters, as of a request's describe prompt
_WINDOW = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")

Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\r\n]*$")]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Checkpoint(_Part):
    """Which checkpoint a profile is for."""

    name: Annotated[Line, Field(description="for people")]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="of its files, see `checkpoint.file_digest`")]


class Measured(_Part):
    """What a context by the profile's options reached, on images by which they were not chosen."""

    measure: Annotated[Line, Field(description="what the shares are of")]
    full_pass: Annotated[float, Field(ge=0, le=1, description="share that is right with the whole image")]
    context: Annotated[float, Field(ge=0, le=1, description="share that is right from the context")]
    at_least: Annotated[float, Field(description="of the full pass: lower bound, one-sided 95%, paired bootstrap")]
    tolerance: Annotated[float, Field(ge=0, lt=1, description="share of the full pass that was allowed to be lost")]
    images: Annotated[Count, Field(description="it was measured on; as many others chose the options")]
    tokens: Annotated[float, Field(gt=0, description="in a context, mean")]
    full_tokens: Annotated[float, Field(gt=0, description="in the prompt of the full pass up to the question, mean")]
    bytes: Annotated[Count, Field(description="of a context's keys and values as the model computes them, mean")]
    full_bytes: Annotated[Count, Field(description="the same of the full pass")]
    by: Annotated[Line, Field(description="the command")]
    version: Annotated[Line, Field(description="of lookonce")]
    on: Annotated[date, Field(strict=False)]


class Profile(_Part):
    """How images are described for one checkpoint, and what was measured of it; as the file has it.

    Raises:
        pydantic.ValidationError: a value is wrong; it names the key, the value and what is accepted.
    """

    format: Literal[1] = 1
    checkpoint: Checkpoint
    window: Annotated[str, Field(description="half-open range of layers, as in '2-6'")]
    rows: ScoreQueries
    selection: Annotated[str, Field(max_length=200)]
    retention: Annotated[float, Field(gt=0, le=1)]
    describe_prompt: Annotated[str | None, Field(min_length=1, max_length=MOST_PROMPT)] = None
    measured: Measured

    @field_validator("window")
    @classmethod
    def _is_range(cls, value: str) -> str:
        match = _WINDOW.fullmatch(value)
        if match is None or not int(match[1]) < int(match[2]):
            raise ValueError("expected a half-open range of layers such as '2-6'")
        return value

    @field_validator("selection")
    @classmethod
    def _is_selection(cls, value: str) -> str:
        return check_selection(value)

    @property
    def options(self) -> dict[str, Any]:
        """The settings that it decides, by their names."""
        chosen = {"window": self.window, "rows": self.rows, "selection": self.selection, "retention": self.retention}
        return chosen | ({} if self.describe_prompt is None else {"describe_prompt": self.describe_prompt})

    def overridden(self, options: Mapping[str, Any]) -> list[str]:
        """Names of its options that have other values in `options`: what was measured says nothing of those."""
        return [name for name, value in self.options.items() if options[name] != value]

    def check(self, digest: str, name: str, origin: str) -> None:
        """Refuse another checkpoint than the one it was calibrated for: its layers mean nothing there.

        Args:
            digest: of the checkpoint that is served.
            name: of that checkpoint, for people.
            origin: where the profile came from, as in "--profile a.json".

        Raises:
            ProfileError: it is another one.
        """
        if digest != self.checkpoint.digest:
            raise ProfileError(
                f"{origin}: it is of the checkpoint {self.checkpoint.name!r} ({self.checkpoint.digest[:12]}), and"
                f" {name!r} ({digest[:12]}) is served. Accepted: a profile of that one, as `lookonce calibrate` makes,"
                " or none."
            )

    @classmethod
    def read(cls, path: Path, origin: str) -> Self:
        """Read a file.

        Raises:
            ProfileError: it cannot be read, or is no profile; one line that begins with `origin`.
        """
        try:
            with path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise ProfileError(f"{origin}: {error.strerror or error}") from None
        if len(text) > MOST_BYTES:
            raise ProfileError(f"{origin}: more than the {MOST_BYTES} bytes that a profile may have")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ProfileError(f"{origin}: {'; '.join(map(_explained, error.errors()[:3]))}") from None

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n")


def check_selection(spec: str) -> str:
    """The name of a selection, with options or without, if there is such a one.

    Raises:
        ValueError: there is none, or it does not take these options.
    """
    try:
        get_selection(spec)
    except UnknownSelectionError:
        raise ValueError(
            f"expected one of {', '.join(sorted(SELECTIONS))}, with options as in 'coverage:reach=0.3'"
        ) from None
    return spec


def _explained(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    given = (
        f" (given: {str(error['input'])[:80]!r})" if where and error["type"] not in ("missing", "json_invalid") else ""
    )
    return " ".join(f"{where + ': ' if where else ''}{error['msg'].removeprefix('Value error, ')}{given}".split())

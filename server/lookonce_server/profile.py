"""Read and write profiles: describe options that were measured for a checkpoint.

`lookonce calibrate` writes them as JSON, and the server reads them (`--profile`).
"""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lookonce_pruning import SELECTIONS, ScoreQueries, UnknownSelectionError, get_selection
from lookonce_server.errors import ProfileError

MAX_BYTES = 64 * 1024  # of a file: a profile has about one KiB
MAX_PROMPT = 6000  # characters, as of a request's describe prompt
_WINDOW = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")

Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\r\n]*$")]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Checkpoint(_Part):
    """Name the checkpoint of a profile."""

    name: Annotated[Line, Field(description="for people")]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="of its files, see `checkpoint.file_digest`")]


class Measured(_Part):
    """Report what contexts reached, on images by which the options were not chosen."""

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
    """Hold the describe options of one checkpoint, and what was measured of them.

    Raises:
        pydantic.ValidationError: a value is wrong; it names the key, the value and what is accepted.
    """

    format: Literal[1] = 1
    checkpoint: Checkpoint
    window: Annotated[str, Field(description="half-open range of layers, as in '2-6'")]
    rows: ScoreQueries
    selection: Annotated[str, Field(max_length=200)]
    retention: Annotated[float, Field(gt=0, le=1)]
    describe_prompt: Annotated[str | None, Field(min_length=1, max_length=MAX_PROMPT)] = None
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
        """The settings that it decides, by name."""
        options = {"window": self.window, "rows": self.rows, "selection": self.selection, "retention": self.retention}
        return options | ({} if self.describe_prompt is None else {"describe_prompt": self.describe_prompt})

    def overridden(self, options: Mapping[str, Any]) -> list[str]:
        """Name its options that have other values in `options`: those were not measured."""
        return [name for name, value in self.options.items() if options[name] != value]

    def check(self, digest: str, name: str, origin: str) -> None:
        """Refuse another checkpoint than the one it was calibrated for.

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
                text = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ProfileError(f"{origin}: {error.strerror or error}") from None
        if len(text) > MAX_BYTES:
            raise ProfileError(f"{origin}: more than the {MAX_BYTES} bytes that a profile may have")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ProfileError(f"{origin}: {'; '.join(map(_explained, error.errors()[:3]))}") from None

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(self.model_dump_json(indent=1, exclude_none=True) + "\n")


def check_selection(spec: str) -> str:
    """Return a selection's name with its options, if they are known.

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
    """Return one of pydantic's errors in a line, with its field and value."""
    field = ".".join(map(str, error["loc"]))
    value = (
        f" (given: {str(error['input'])[:80]!r})" if field and error["type"] not in ("missing", "json_invalid") else ""
    )
    return " ".join(f"{field + ': ' if field else ''}{error['msg'].removeprefix('Value error, ')}{value}".split())

"""The type of settings that take several values."""

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


# A list in the TOML file; elsewhere, values separated by commas.
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]

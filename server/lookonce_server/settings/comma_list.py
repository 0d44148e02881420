"""The type of settings that take several values."""

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


# A list in the TOML file; elsewhere, values separated by commas.
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]

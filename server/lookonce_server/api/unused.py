"""Fields of OpenAI's interface for which this server has no use, and what of them means "not used"."""

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Unused:
    """Marks a field that is taken only where it asks for nothing: at null, or at one of the values given.

    Args:
        accepted: values of OpenAI's that mean the same as leaving the field out.
    """

    def __init__(self, *accepted: Any) -> None:
        self._accepted = (None, *accepted)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": list(self._accepted)}

    def _check(self, value: Any) -> Any:
        if any(type(value) is type(one) and value == one for one in self._accepted):
            return value
        taken = " or ".join(repr(one) for one in self._accepted if one is not None)
        raise PydanticCustomError(
            "unsupported",
            "not supported by this server; leave it out{instead}",
            {"instead": f", or send {taken}" if taken else ""},
        )

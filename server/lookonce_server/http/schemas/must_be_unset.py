"""The base models of requests, and fields that must ask for nothing."""

from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema


class MustBeUnset:
    """Mark a field that must be null, or a value that asks for nothing.

    Args:
        accepted: the values that mean the same as leaving the field out.
        why: the reason why other values are rejected, as a part of a sentence.
        instead: the advice in the error, as "send stop".
    """

    def __init__(
        self,
        *accepted: Any,
        why: str = "not supported by this server",
        instead: str | None = None,
    ) -> None:
        self._accepted = (None, *accepted)
        values = " or ".join(repr(value) for value in accepted)
        leave = "leave it out" + (f", or send {values}" if values else "")
        self._message = f"{why}; " + (f"{instead}, or leave it out" if instead else leave)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": list(self._accepted)}

    def _check(self, value: Any) -> Any:
        if any(_is_same(value, accepted) for accepted in self._accepted):
            return value
        raise PydanticCustomError("unsupported", "{message}", {"message": self._message})


class NoFunctions(MustBeUnset):
    """Mark a field of OpenAI's first interface to tools."""

    def __init__(self, *accepted: Any) -> None:
        super().__init__(*accepted, instead="send tools, tool_choice and tool_calls, which have taken its place")


class Unknown(MustBeUnset):
    """Mark the unknown fields of a model: they must be null."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "null"}

    def _check(self, value: Any) -> Any:
        if value is not None:
            raise PydanticKnownError("extra_forbidden")
        return value


class RequestModel(BaseModel):
    """A part of a request.

    Unknown fields may be null: some clients send all the fields that they know.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[Any, Unknown()]] = Field(init=False)


class StrictModel(RequestModel):
    """A part of a request in JSON, of exactly the documented types."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class RepeatedModel(StrictModel):
    """A part of a request that its answer repeats, without unknown fields."""

    @model_validator(mode="after")
    def _forget_unknown(self) -> Self:
        self.__pydantic_extra__.clear()
        return self


def or_default(model: type[BaseModel]) -> BeforeValidator:
    """Read null as the field's default."""
    return BeforeValidator(lambda value: model() if value is None else value, json_schema_input_type=model | None)


def _is_same(value: Any, accepted: Any) -> bool:
    """Return whether JSON's values are equal: 1 and 1.0 are, 1 and true are not."""
    numbers = (int, float)
    is_kind = type(value) is type(accepted) or (type(value) in numbers and type(accepted) in numbers)
    return is_kind and bool(value == accepted)

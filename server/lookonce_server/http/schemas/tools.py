"""The tools of a request, and the calls of answers that come back.

Chats and responses have them alike, but for where the function stands.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from lookonce_server.engines.structured.grammar import MAX_DEPTH
from lookonce_server.http.schemas.must_be_unset import RepeatedModel, StrictModel

MAX_TOOLS = 128  # as at OpenAI
MAX_CALLS = 128  # of one message
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=512)]


def _check_depth(schema: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [part for node in level for part in (node.values() if isinstance(node, dict) else node)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise PydanticCustomError("too_deep", "objects and lists are within each other more than 50 deep")
    return schema


class Function(RepeatedModel):
    """A function that the model may call. Forced calls keep to its parameters, whatever `strict` says."""

    name: FunctionName
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_check_depth)] | None = None
    strict: bool | None = None


class ChatTool(StrictModel):
    """A tool of a chat."""

    type: Literal["function"]
    function: Function


class FunctionTool(Function):
    """A tool of a response."""

    type: Literal["function"]


ChoiceMode = Literal["none", "auto", "required"]


class NamedFunction(StrictModel):
    """The name of a function."""

    name: FunctionName


class ChatNamedChoice(StrictModel):
    """A chat's choice of one function."""

    type: Literal["function"]
    function: NamedFunction


class NamedChoice(RepeatedModel):
    """A response's choice of one function."""

    type: Literal["function"]
    name: FunctionName


ChatTools = Annotated[list[ChatTool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ResponseTools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class CalledFunction(StrictModel):
    """The function of a call, and its arguments as JSON text."""

    name: FunctionName
    arguments: str


class MessageCall(StrictModel):
    """A call in an assistant's message."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # which pieces of a stream have, and some clients send back


MessageCalls = Annotated[list[MessageCall], Field(max_length=MAX_CALLS, fail_fast=True)]

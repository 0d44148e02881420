"""Read the tools of a request, and the schema that forced calls keep to."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from lookonce_server.engines.base import Engine
from lookonce_server.engines.tools import Tool, ToolChoice
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.schemas.messages import Message
from lookonce_server.http.schemas.tools import ChatNamedChoice, ChoiceMode, Function

_CLOSED_BY = ("additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref")
_MAX_CALLS = 16  # of an answer that is forced to call
_MOST_TRIED = 16  # tools whose schemas are tried one by one: each trial is a process


class ToolUse(NamedTuple):
    """The tools of a request.

    Attributes:
        tools: that the model is told of.
        choice: the calls that the answer may make; None: none.
        schema: of an answer that must call, as JSON text.
        params: the field of each tool.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice | None = None
    schema: str | None = None
    params: tuple[str, ...] = ()


def parse_tools(
    functions: Sequence[Function],
    choice: ChoiceMode | ChatNamedChoice | None,
    *,
    is_parallel: bool,
    place: str = ".function",
) -> ToolUse:
    """Read the tools of a request.

    Args:
        functions: that the model may call.
        choice: of one, or of whether to call.
        is_parallel: whether an answer may make several calls.
        place: of a function within its tool.

    Raises:
        InvalidRequestError: two have one name, or the choice is none of them.
    """
    names = [function.name for function in functions]
    for i, name in enumerate(names):
        if name in names[:i]:
            param = f"tools[{i}]{place}.name"
            raise InvalidRequestError(f"{param}: {name!r} is the name of an earlier tool.", param=param)
    mode = choice if choice is None or isinstance(choice, str) else "named"
    if mode in ("required", "named") and not functions:
        raise InvalidRequestError(f"tool_choice: {mode!r} needs tools, and there are none.", param="tool_choice")
    if mode == "none" or not functions:
        return ToolUse()
    chosen = list(range(len(functions)))
    if isinstance(choice, ChatNamedChoice):
        if choice.function.name not in names:
            raise InvalidRequestError(
                f"tool_choice: {choice.function.name!r} is none of the tools; accepted: {', '.join(names)[:500]}.",
                param="tool_choice",
            )
        chosen = [names.index(choice.function.name)]
    tools = tuple(_tool(functions[i]) for i in chosen)
    params = tuple(f"tools[{i}]{place}.parameters" for i in chosen)
    used = tuple(tool.name for tool in tools)
    if mode == "named":
        return ToolUse(tools, ToolChoice("named", used, is_parallel=False), _text(_closed(tools[0])), params)
    if mode == "required":
        return ToolUse(tools, ToolChoice("required", used, is_parallel), _calls_schema(tools, is_parallel), params)
    return ToolUse(tools, ToolChoice("auto", used, is_parallel), None, params)


def check_tools(use: ToolUse, engine: Engine, *, has_format: bool) -> None:
    """Reject a choice that the model cannot make.

    Args:
        use: the tools of the request.
        engine: of the model.
        has_format: whether the request has a schema for the answer's text.
    """
    if use.choice is None or use.choice.mode != "auto":
        return
    if engine.facts.no_tools is not None:
        raise InvalidRequestError(
            f"tools: this model cannot choose tools. {engine.facts.no_tools} Force a call by tool_choice 'required' or"
            " by a function's name, or send tool_choice 'none'.",
            param="tools",
        )
    if has_format:
        raise InvalidRequestError(
            "response_format: an answer that may call tools is not held to a format; send tool_choice 'none',"
            " 'required' or a function's name, or no response_format.",
            param="response_format",
        )


async def blame_tool(use: ToolUse, engine: Engine, error: InvalidRequestError) -> InvalidRequestError:
    """Return the error of a schema that is not accepted, of the tool whose parameters it is about."""
    if use.schema is None or error.param != "response_format":
        return error
    for tool, param in zip(use.tools[:_MOST_TRIED], use.params, strict=False):
        try:
            await engine.check_schema(_text(_closed(tool)))
        except InvalidRequestError as own:
            return InvalidRequestError(f"{param}: {own}", param=param)
    error.param = "tools"
    return error


def check_calls(messages: Sequence[Message]) -> None:
    """Reject results without a call, and calls without a result.

    Raises:
        InvalidRequestError: the field is named.
    """
    waiting: dict[str, str] = {}
    for i, message in enumerate(messages):
        if message.role == "tool":
            _take_result(message, f"messages[{i}]", waiting)
        elif waiting and message.role in ("user", "assistant"):
            raise _unanswered(i, waiting)
        for j, call in enumerate(message.tool_calls or ()):
            place = f"messages[{i}].tool_calls[{j}].id"
            if call.id in waiting:
                raise InvalidRequestError(f"{place}: {call.id[:80]!r} is the id of an earlier call.", param=place)
            waiting[call.id] = call.function.name
    if waiting:
        raise _unanswered(len(messages) - 1, waiting)


def _take_result(message: Message, place: str, waiting: dict[str, str]) -> None:
    param = f"{place}.tool_call_id"
    if message.tool_call_id is None:
        raise InvalidRequestError(f"{param}: Field required.", param=param)
    if waiting.pop(message.tool_call_id, None) is None:
        raise InvalidRequestError(
            f"{param}: {message.tool_call_id[:80]!r} is no call of the assistant's message before it, or has its result"
            " already.",
            param=param,
        )


def _unanswered(i: int, waiting: dict[str, str]) -> InvalidRequestError:
    call = next(iter(waiting))
    return InvalidRequestError(
        f"messages[{i}]: the call {call[:80]!r} of {waiting[call]!r} has no result; a message of the role 'tool' must"
        " follow for each call.",
        param=f"messages[{i}]",
    )


def _tool(function: Function) -> Tool:
    parameters = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description, _text(parameters))


def _closed(tool: Tool) -> dict[str, Any]:
    """Return the schema of a tool's arguments: an object, of the properties that it names unless it allows others."""
    schema: dict[str, Any] = json.loads(tool.parameters)
    if not any(name in schema for name in _CLOSED_BY):
        schema = {"type": "object", **schema, "additionalProperties": False}
    return schema


def _calls_schema(tools: Sequence[Tool], is_parallel: bool) -> str:
    """Return the schema of a list of calls; each tool's own references stay within its parameters."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"$ref": f"#/$defs/{i}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    schemas = {str(i): _moved(_closed(tool), f"#/$defs/{i}") for i, tool in enumerate(tools)}
    most = _MAX_CALLS if is_parallel else 1
    return _text({"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": calls}, "$defs": schemas})


def _moved(schema: Any, place: str) -> Any:
    """Return a schema whose references are to its own parts at a place in another one."""
    if isinstance(schema, list):
        return [_moved(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: place + part[1:]
        if name == "$ref" and isinstance(part, str) and part.startswith("#")
        else _moved(part, place)
        for name, part in schema.items()
    }


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, separators=(",", ":"), allow_nan=False)

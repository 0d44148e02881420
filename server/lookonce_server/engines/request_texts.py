"""The texts of a request within the messages of a prompt."""

from collections.abc import Callable
from typing import Any

from lookonce_server.engines.conversation import OWN, Conversation
from lookonce_server.engines.tools import change_strings

Change = Callable[[str], str]


def texts_of(conversation: Conversation) -> list[tuple[str, str]]:
    """List the texts of a conversation that a template may show, with fields."""
    return [
        (f"messages[{i}].{field}", text)
        for i, turn in enumerate(conversation.turns)
        for field, text in (
            ("content", turn.text),
            ("name", turn.name or ""),
            ("tool_calls", "\n".join(f"{call.name} {call.arguments}" for call in turn.calls)),
        )
    ] + [
        (f"tools[{i}]", f"{tool.name} {tool.description} {tool.parameters}")
        for i, tool in enumerate(conversation.tools)
    ]


def change_texts(messages: list[dict[str, Any]], change: Change) -> list[dict[str, Any]]:
    """Change each text of messages."""

    def changed(message: dict[str, Any]) -> dict[str, Any]:
        more: dict[str, Any] = {"name": change(message["name"])} if "name" in message else {}
        if "tool_calls" in message:
            more["tool_calls"] = change_strings(message["tool_calls"], change)
        return message | {"content": [_change_part(part, change) for part in message["content"]]} | more

    return [changed(message) for message in messages]


def _change_part(part: dict[str, Any], change: Change) -> dict[str, Any]:
    """Change a part's text, unless it is the template's own."""
    if OWN in part:
        return {name: value for name, value in part.items() if name != OWN}
    return part | {"text": change(part["text"])} if "text" in part else part

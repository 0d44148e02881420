"""Tell a model of tools, calls and results, with its own chat template as far as that knows them.

What a template does with tools is found by trying, with marks in their place. A template may put them before the
image, where a context must not change. So behind contexts their text, as the template writes it, stands where system
text does: in the first turn of the user's. A template that knows no tools is given texts in their place.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from lookonce_server.engines.chat_template import ChatTemplate, Message
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.tool_calls import CallFormat
from lookonce_server.engines.tools import Tool, ToolCall, change_strings

Change = Callable[[str], str]
_MARK = "lookonce-mark"
_TOOL = Tool(f"{_MARK}-f", f"{_MARK}-d", '{"type":"object","properties":{"a":{"type":"string"}}}')
_CALL = ToolCall("call00000", f"{_MARK}-g", json.dumps({f"{_MARK}-a": f"{_MARK}-b"}))
_RESULT = f"{_MARK}-r"
_IMAGE = {"type": "image"}


class ToolTemplate:
    """Render conversations with tools.

    Args:
        template: the model's.
        placeholders: the texts that stand for images and videos in a prompt, by their kinds.
    """

    def __init__(self, template: ChatTemplate, placeholders: Mapping[str, str]) -> None:
        self._template = template
        self._image = placeholders.get("image", "")

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template tells the model of tools, and shows calls and results."""
        return self._form is not None and f"{_MARK}-d" in (self._try([_user("?")], [_TOOL.as_message()]) or "")

    @cached_property
    def call_format(self) -> CallFormat | None:
        """The form in which the model writes calls; None if it is none that can be read."""
        if not self.takes_tools:
            return None
        messages = [_user("?"), _message(Turn("assistant", (), calls=(_CALL,))), _user(f"{_MARK}-q")]
        plain = [messages[0], _message(Turn("assistant", (f"{_MARK}-t",))), messages[2]]
        called, spoken = (self.apply(each) for each in (messages, plain))
        before, mark, after = spoken.partition(f"{_MARK}-t")
        if not mark or not called.startswith(before) or not called.endswith(after):
            return None
        return _format_of(called[len(before) : len(called) - len(after)].strip())

    def of(self, conversation: Conversation) -> Conversation:
        """Return a conversation as the template can show it.

        Calls, results and tools are texts where it does not know them; images of results follow them in a turn of the
        user's where it does not show them there.
        """
        has_calls = any(turn.calls or turn.role == "tool" for turn in conversation.turns)
        if not (conversation.tools or has_calls):
            return conversation
        if not self.takes_tools:
            return _told(conversation)
        turns = conversation.turns
        if any(turn.role == "tool" and turn.images for turn in turns) and not self._shows_result_images:
            turns = tuple(_images_apart(turns))
        return replace(conversation, turns=turns)

    def apply(self, messages: list[Message], tools: list[Message] | None = None) -> str:
        """Render messages; see `ChatTemplate.apply`."""
        if self._form is None or not any("tool_calls" in one or one["role"] == "tool" for one in messages):
            return self._template.apply(messages, tools)
        form = self._form
        return self._template.apply([form(one) if _is_about_tools(one) else one for one in messages], tools)

    def text_of(self, tools: tuple[Tool, ...], change: Change) -> str:
        """Return the text in which the template tells the model of tools.

        Args:
            tools: the functions.
            change: changes each text of theirs, and none of the template's.
        """
        if not tools:
            return ""
        described = [change_strings(tool.as_message(), change) for tool in tools]
        return self._inserted(described) or change(_listed(tools, self.call_format))

    def _inserted(self, tools: list[Message]) -> str | None:
        """Return what the template adds to a message when there are tools, if that is one text beside another."""
        system, user = {"role": "system", "content": [_text(f"{_MARK}-s")]}, _user(f"{_MARK}-q")
        for messages in ([system, user], [user]):
            without, shown = self._try(messages), self._try(messages, tools)
            if without is None or shown is None:
                continue
            at = next((i for i, pair in enumerate(zip(without, shown, strict=False)) if pair[0] != pair[1]), 0)
            end = len(shown) - (len(without) - at)
            begins = any(without[at:].startswith(f"{_MARK}-{which}") for which in "sq")
            ends = any(without[:at].endswith(f"{_MARK}-{which}") for which in "sq")
            if end > at and shown[end:] == without[at:] and (begins or ends):
                return shown[at:end].strip()
        return None

    @cached_property
    def _form(self) -> Callable[[Message], Message] | None:
        """The form of messages about tools that the template shows whole; None if there is none."""
        messages = [_user("?"), _message(Turn("assistant", (), calls=(_CALL,))), _result([_text(_RESULT)])]
        for form in _forms(self._template):
            text = self._try([form(one) if _is_about_tools(one) else one for one in messages])
            parts = (_CALL.name, f'"{_MARK}-a"', f'"{_MARK}-b"', _RESULT)
            if text is not None and all(part in text for part in parts) and "'type'" not in text:
                return form
        return None

    @cached_property
    def _shows_result_images(self) -> bool:
        messages = [_user("?"), _message(Turn("assistant", (), calls=(_CALL,))), _result([_IMAGE, _text(_RESULT)])]
        assert self._form is not None
        text = self._try([self._form(one) if _is_about_tools(one) else one for one in messages]) or ""
        return self._image in text and _RESULT in text and "'type'" not in text

    def _try(self, messages: list[Message], tools: list[Message] | None = None) -> str | None:
        """Render messages; None if the template does not take them."""
        try:
            return self._template.apply(messages, tools)
        except Exception:  # whatever a template raises on what it does not know
            return None


def _forms(template: ChatTemplate) -> list[Callable[[Message], Message]]:
    """List forms of messages about tools: of contents, with arguments as JSON's values or as their text."""

    def with_texts(form: Callable[[Message], Message]) -> Callable[[Message], Message]:
        return lambda message: _with_argument_texts(form(message))

    return [*template.tool_forms, *map(with_texts, template.tool_forms)]


def _with_argument_texts(message: Message) -> Message:
    if "tool_calls" not in message:
        return message

    def as_text(call: Message) -> Message:
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return call | {"function": call["function"] | {"arguments": text}}

    return message | {"tool_calls": [as_text(call) for call in message["tool_calls"]]}


def _format_of(written: str) -> CallFormat | None:
    """Return the form of a call as a template wrote it."""
    at, last = written.find("{"), written.rfind("}")
    if at < 0 or last < at:
        return None
    try:
        call: Any = json.loads(written[at : last + 1])
    except ValueError:
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if call.get("name") != _CALL.name or arguments != _CALL.values:
        return None
    start, end = written[:at].strip(), written[last + 1 :].strip()
    if start.endswith("[") and end.startswith("]"):
        return CallFormat(start[:-1].strip(), end[1:].strip(), is_list=True)
    return CallFormat(start, end)


def _listed(tools: tuple[Tool, ...], form: CallFormat | None) -> str:
    """Return a text that lists tools, for models whose templates write none that could stand in a message."""
    lines = [json.dumps(tool.as_message()["function"], ensure_ascii=False) for tool in tools]
    how = ""
    if form is not None:
        opened, closed = ("[", "]") if form.is_list else ("", "")
        call = f'{form.start}{opened}{{"name": <name>, "arguments": <object>}}{closed}{form.end}'
        how = f"\nTo call one, write {call}"
    return "\n".join(("Functions:", *lines)) + how


def _told(conversation: Conversation) -> Conversation:
    """Return a conversation in which tools, calls and results are texts."""
    turns: list[Turn] = []
    for turn in conversation.turns:
        if turn.calls:
            calls = "\n".join(
                f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}' for call in turn.calls
            )
            turn = Turn("assistant", (*turn.parts, calls), turn.name)
        if turn.role == "tool":
            turn = Turn("user", turn.parts)
            if turns and turns[-1].role == "user":  # many templates have the roles take turns
                turns[-1] = replace(turns[-1], parts=(*turns[-1].parts, *turn.parts))
                continue
        turns.append(turn)
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if conversation.tools and first is not None:
        parts = turns[first].parts
        at = next((i for i, part in enumerate(parts) if isinstance(part, str)), len(parts))
        listed = _listed(conversation.tools, None)
        texts = [listed, *(str(part) for part in parts[at : at + 1])]
        parts = (*parts[:at], "\n".join(texts), *parts[at + 1 :])
        turns[first] = replace(turns[first], parts=parts)
    return replace(conversation, turns=tuple(turns), tools=())


def _images_apart(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield turns, the images of results in a turn of the user's behind them."""
    images: tuple[int, ...] = ()
    for turn in turns:
        if turn.role == "tool":
            images += turn.images
            yield replace(turn, parts=(turn.text,) if turn.text else ())
        elif images and turn.role == "user":
            yield replace(turn, parts=(*images, *turn.parts))
            images = ()
        else:
            yield from (Turn("user", images),) if images else ()
            yield turn
            images = ()
    if images:
        yield Turn("user", images)


def _is_about_tools(message: Message) -> bool:
    return "tool_calls" in message or message["role"] == "tool"


def _message(turn: Turn) -> Message:
    return Conversation((turn,)).as_messages()[0]


def _result(content: list[Message]) -> Message:
    return {"role": "tool", "name": _CALL.name, "tool_call_id": _CALL.id, "content": content}


def _user(text: str) -> Message:
    return {"role": "user", "content": [_text(text)]}


def _text(text: str) -> Message:
    return {"type": "text", "text": text}

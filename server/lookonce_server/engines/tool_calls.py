"""Tell the calls in an answer from its text, as it is generated.

A call is a JSON object with the function's name and its arguments. Forced answers are arguments alone, or a list of
calls. Where the model decides, calls stand between marks of its chat template, as "<tool_call>" and "</tool_call>".
"""

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol

from lookonce_server.engines.tools import CallDelta, ToolChoice

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_BETWEEN = " \t\r\n[],}"  # before a call: the begin of a list, and the end of the call before
_LONGEST_HEAD = 512  # characters of a call before its arguments


class CallFormat(NamedTuple):
    """The form in which a model writes calls.

    Attributes:
        start: the mark before a call; "": an answer that begins as a call is one.
        end: the mark behind it; "": there is none.
        is_list: whether calls stand in a list between the marks.
        is_special: whether a mark is a special token, which no text of an answer shows otherwise.
    """

    start: str
    end: str
    is_list: bool = False
    is_special: bool = False


class CallSplit(NamedTuple):
    """A piece of an answer, taken apart."""

    content: str
    calls: tuple[CallDelta, ...] = ()


class CallParser(Protocol):
    """Take an answer's text apart as it is generated."""

    @property
    def shows_special(self) -> bool:
        """Whether it is to be given special tokens as text."""

    @property
    def num_calls(self) -> int:
        """Count the calls begun."""

    @property
    def is_done(self) -> bool:
        """Whether nothing that follows counts."""

    def push(self, text: str, tokens: tuple[int, ...] = (), *, is_last: bool = False) -> CallSplit:
        """Return what a piece of text adds.

        Args:
            text: the next piece.
            tokens: that it was made from.
            is_last: nothing is held back then.
        """


class NamedCallParser:
    """Take an answer for the arguments of the one call that was asked for."""

    shows_special = False

    def __init__(self, name: str) -> None:
        self._name: str | None = name
        self.num_calls = 0
        self.is_done = False

    def push(self, text: str, tokens: tuple[int, ...] = (), *, is_last: bool = False) -> CallSplit:
        """See `CallParser.push`."""
        name, self._name, self.num_calls = self._name, None, 1
        return CallSplit("", (CallDelta(0, name, text),) if name is not None or text else ())


class _Value:
    """Find the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_text = self._is_escaped = False

    def end_in(self, text: str) -> int | None:
        """Return where the object ends in its next piece, None if it goes on."""
        for at, letter in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_text:
                self._is_escaped = letter == "\\"
                self._is_text = letter != '"'
            elif letter == '"':
                self._is_text = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return at + 1
        return None


class _Calls:
    """Read the text between two marks: one call, or a list of calls.

    Args:
        names: of the functions that may be called; what calls another one is no call.
        first: number of the first call.
    """

    def __init__(self, names: tuple[str, ...], first: int) -> None:
        self._names = names
        self._first = first
        self.count = first
        self.held = ""  # text that is not known to be a call's
        self.is_wrong = False  # it is none's
        self._value: _Value | None = None  # the arguments that are read

    @property
    def has_calls(self) -> bool:
        """Whether a call has begun."""
        return self.count > self._first

    @property
    def is_within(self) -> bool:
        """Whether the text ends within arguments, where a mark is a text."""
        return self._value is not None

    def push(self, text: str) -> list[CallDelta]:
        """Return what a piece of text adds."""
        deltas: list[CallDelta] = []
        self.held += text
        while self._value is not None or self._begin(deltas):
            assert self._value is not None
            end = self._value.end_in(self.held)
            taken, self.held = (self.held, "") if end is None else (self.held[:end], self.held[end:])
            if taken:
                deltas.append(CallDelta(self.count - 1, None, taken))
            if end is None:
                break
            self._value = None
        return deltas

    def whole(self, text: str) -> list[CallDelta]:
        """Return the call that a whole text is, whatever the order of its fields; none if it is no call."""
        try:
            call = json.loads(text)
            name, arguments = call["name"], call.get("arguments", call.get("parameters"))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            return []
        if name not in self._names or not isinstance(arguments, dict):
            return []
        self.count += 1
        return [CallDelta(self.count - 1, name), CallDelta(self.count - 1, None, json.dumps(arguments))]

    def _begin(self, deltas: list[CallDelta]) -> bool:
        """Find the head of the next call; return whether it is whole."""
        begun = self.held.lstrip(_BETWEEN)
        match = _HEAD.match(begun)
        name = _text_of(match[1]) if match else None
        if match is None or name not in self._names:
            is_other = match is not None or len(begun) > _LONGEST_HEAD or begun[:1] not in ("", "{")
            self.is_wrong = is_other and not self.has_calls
            return False
        self.held, self._value = begun[match.end() :], _Value()
        self.count += 1
        deltas.append(CallDelta(self.count - 1, name))
        return True


class ListedCallParser:
    """Read an answer that is a list of calls alone, as a grammar forces it."""

    shows_special = False

    def __init__(self, choice: ToolChoice) -> None:
        self._calls = _Calls(choice.names, 0)
        self.is_done = False

    @property
    def num_calls(self) -> int:
        """See `CallParser.num_calls`."""
        return self._calls.count

    def push(self, text: str, tokens: tuple[int, ...] = (), *, is_last: bool = False) -> CallSplit:
        """See `CallParser.push`."""
        return CallSplit("", tuple(self._calls.push(text)))


class MarkedCallParser:
    """Find calls between marks in an answer.

    What is no call after all is text, marks and all. Blanks before a mark are dropped, and so is what follows a call,
    but for other calls.
    """

    def __init__(self, form: CallFormat, choice: ToolChoice) -> None:
        self._form = form
        self.shows_special = form.is_special
        self._choice = choice
        self._held = ""
        self._calls: _Calls | None = None
        self._blanks = ""  # before the call that is read
        self._has_text = False
        self.num_calls = 0

    @property
    def is_done(self) -> bool:
        """See `CallParser.is_done`."""
        is_within = self._calls is not None and self._calls.is_within
        return not self._choice.is_parallel and self.num_calls > 0 and not is_within

    def push(self, text: str, tokens: tuple[int, ...] = (), *, is_last: bool = False) -> CallSplit:
        """See `CallParser.push`."""
        self._held += text
        content, goes_on = "", True
        deltas: list[CallDelta] = []
        while goes_on and not self.is_done:
            if self._calls is None:
                content += self._spoken(self._before_call(is_last=is_last))
            if self._calls is None:
                break
            text, goes_on = self._within_call(self._calls, deltas, is_last=is_last)
            content += self._spoken(text)
        kept = deltas if self._choice.is_parallel else [delta for delta in deltas if delta.index == 0]
        self._has_text = self._has_text or bool(content)
        return CallSplit(content, tuple(kept))

    def _before_call(self, *, is_last: bool) -> str:
        """Take the text before the next call; begin the call if it is there."""
        start = self._form.start
        if start:
            before, mark, after = self._held.partition(start)
            if mark:
                self._held, self._calls = after, _Calls(self._choice.names, self.num_calls)
                text = before.rstrip()
                self._blanks = before[len(text) :]
                return text
            return self._take(len(self._held) if is_last else _safe_length(self._held, start))
        begun = self._held.lstrip()
        if begun.startswith("{") and not self._has_text:
            self._calls = _Calls(self._choice.names, self.num_calls)
        return self._take(len(self._held) if is_last or (begun and self._calls is None) else 0)

    def _within_call(self, calls: _Calls, deltas: list[CallDelta], *, is_last: bool) -> tuple[str, bool]:
        """Read a call on; return text that is none, and whether something else follows."""
        start, end = self._form.start, self._form.end
        deltas += calls.push(self._take(len(self._held)))
        self.num_calls = calls.count
        if calls.is_within:
            return "", False
        before, mark, after = calls.held.partition(end) if end else (calls.held, "", "")
        is_ended = bool(mark) or is_last
        if is_ended and not calls.has_calls:
            deltas += calls.whole(before)
            self.num_calls = calls.count
        if calls.has_calls and not is_ended:
            return "", False
        if calls.has_calls:
            self._held, self._calls = after, None
            return "", bool(after)
        if not (mark or calls.is_wrong or is_last):
            return "", False
        self._calls = None
        if start and calls.is_wrong:  # there may be a call in it
            self._held = calls.held
            return self._blanks + start, True
        self._held = after
        return self._blanks + start + before + mark, bool(start)

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken

    def _spoken(self, text: str) -> str:
        """Return text if it comes before all calls."""
        return "" if self.num_calls else text


def parser_of(choice: ToolChoice, form: CallFormat | None) -> CallParser | None:
    """Return the parser of an answer; None where calls cannot be told from text.

    Args:
        choice: the calls that it may make.
        form: in which the model writes calls of its own.
    """
    if choice.mode == "named":
        return NamedCallParser(choice.names[0])
    if choice.mode == "required":
        return ListedCallParser(choice)
    return MarkedCallParser(form, choice) if form else None


def join_calls(deltas: Iterable[CallDelta]) -> list[CallDelta]:
    """Return whole calls, each of its pieces."""
    calls: dict[int, CallDelta] = {}
    for delta in deltas:
        before = calls.get(delta.index)
        calls[delta.index] = replace(before, arguments=before.arguments + delta.arguments) if before else delta
    return list(calls.values())


def _text_of(literal: str) -> str | None:
    try:
        return str(json.loads(literal))
    except ValueError:
        return None


def _safe_length(text: str, mark: str) -> int:
    """Count the characters that no begin of a mark, nor the blanks before it, can be part of."""
    overlap = next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if mark.startswith(text[-n:])), 0)
    return len(text[: len(text) - overlap].rstrip())

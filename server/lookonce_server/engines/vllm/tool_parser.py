"""Tell calls from an answer's text with one of vLLM's own tool parsers."""

import json
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.tool_calls import CallParser, CallSplit, parser_of
from lookonce_server.engines.tools import CallDelta, Tool, ToolChoice
from lookonce_server.errors import ModelRefusedError


def check_name(name: str) -> None:
    """Raise ModelRefusedError unless vLLM has a parser of that name."""
    names = ToolParserManager.list_registered()
    if name not in names:
        raise ModelRefusedError(f"--tool-call-parser={name}: vLLM has no such parser. Accepted: {', '.join(names)}.")


def call_parser(
    name: str | None, prompts: PromptRenderer, tools: Sequence[Tool], choice: ToolChoice
) -> CallParser | None:
    """Return what tells calls from an answer's text.

    Args:
        name: of vLLM's parser; None: the form that the chat template shows.
        prompts: of the model.
        tools: that the model was told of.
        choice: the calls that the answer may make.
    """
    if choice.mode == "auto" and name is not None:
        return VllmCallParser(name, prompts.tokenizer, tools, choice)
    return parser_of(choice, prompts.call_format)


class VllmCallParser:
    """Implement `CallParser` on one of vLLM's, which are given all text and tokens so far with each piece.

    Args:
        name: of the parser.
        tokenizer: the model's.
        tools: that the model was told of.
        choice: the calls that the answer may make.
    """

    shows_special = True  # many forms are marked by special tokens

    def __init__(self, name: str, tokenizer: Any, tools: Sequence[Tool], choice: ToolChoice) -> None:
        described = [tool.as_message() for tool in tools]
        self._request = ChatCompletionRequest.model_validate(
            {"messages": [{"role": "user", "content": ""}], "model": "", "tools": described}
        )
        self._parser = ToolParserManager.get_tool_parser(name)(tokenizer, list(self._request.tools or ()))
        self._choice = choice
        self._text = ""
        self._tokens: list[int] = []
        self._arguments: dict[int, str] = {}  # told of each call

    @property
    def num_calls(self) -> int:
        """See `CallParser.num_calls`."""
        return len(self._arguments)

    @property
    def is_done(self) -> bool:
        """See `CallParser.is_done`."""
        return not self._choice.is_parallel and self.num_calls > 1

    def push(self, text: str, tokens: tuple[int, ...] = (), *, is_last: bool = False) -> CallSplit:
        """See `CallParser.push`."""
        content, deltas = "", list[CallDelta]()
        if text or tokens:
            before, past = self._text, list(self._tokens)
            self._text += text
            self._tokens += tokens
            message = self._parser.extract_tool_calls_streaming(
                before, self._text, text, past, self._tokens, tokens, self._request
            )
            if message is not None:
                content = message.content or ""
                deltas = [self._delta(call) for call in message.tool_calls or ()]
        if is_last and self._arguments and (rest := self._rest()):
            deltas.append(rest)
        allowed = deltas if self._choice.is_parallel else [delta for delta in deltas if delta.index == 0]
        return CallSplit(content, tuple(allowed))

    def _delta(self, call: Any) -> CallDelta:
        function = call.function
        arguments = (function.arguments if function else None) or ""
        self._arguments[call.index] = self._arguments.get(call.index, "") + arguments
        return CallDelta(call.index, function.name if function else None, arguments)

    def _rest(self) -> CallDelta | None:
        """Return the arguments that the parser has read and not told."""
        last = max(self._arguments)
        read = self._parser.prev_tool_call_arr
        arguments = read[last].get("arguments") if last < len(read) else None
        if arguments is None:
            return None
        whole = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        told = self._arguments[last]
        return CallDelta(last, None, whole[len(told) :]) if whole.startswith(told) and whole != told else None

"""Calls are told from an answer as in the transformers engine, by the template's form or by vLLM's own parser."""

import json

import pytest
import torch

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.tool_calls import join_calls
from lookonce_server.engines.tools import Tool, ToolCall, ToolChoice
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.vllm import tool_parser
from lookonce_server.errors import ModelRefusedError

from ..support.samples import EVERYTHING, PROMPT, Asked, picture
from ..support.tool_model import CALLED, write_calling_model
from .engines import answered, context_of, fully, start

pytestmark = pytest.mark.anyio

SCHEMA = json.dumps(
    {"type": "object", "properties": {"count": {"enum": [3, 4]}}, "required": ["count"], "additionalProperties": False}
)
TOOLS = (Tool(CALLED, "Find the red object.", SCHEMA),)
ASKED = Conversation((Turn("user", (0, "How many objects are there?")),), tools=TOOLS)
AUTO = Sampling(24, tool_choice=ToolChoice("auto", (CALLED,)))
NAMED = Sampling(24, tool_choice=ToolChoice("named", (CALLED,), is_parallel=False), json_schema=SCHEMA)


def told(asked: Asked) -> tuple:
    calls = join_calls(delta for piece in asked.pieces for delta in piece.calls)
    return asked.text, [(call.name, json.loads(call.arguments)) for call in calls], asked.finish_reason


async def test_calls_are_told_alike_in_both_engines(tmp_path):
    folder, image = write_calling_model(tmp_path / "model"), picture(31)
    vllm = await start(folder)
    embedded = await TransformersEngine.load(str(folder), dtype=torch.float32, device="cpu", describe_prompt=PROMPT)
    try:
        assert (vllm.facts.no_tools, embedded.facts.no_tools) == (None, None)
        context = await context_of(embedded, image, EVERYTHING)
        for ask in (lambda e, c, s: fully(e, image, c, s), lambda e, c, s: answered(e, context, c, s)):
            expected = told(await ask(embedded, ASKED, AUTO))
            assert (expected[0], [name for name, _ in expected[1]], expected[2]) == ("", [CALLED], "tool_calls")
            for parser in (None, "hermes"):
                vllm._tool_call_parser = parser
                assert told(await ask(vllm, ASKED, AUTO)) == expected, parser
            forced = told(await ask(vllm, ASKED, NAMED))
            assert forced == told(await ask(embedded, ASKED, NAMED))
            assert forced[1][0][1]["count"] in (3, 4)
            call = ToolCall("call00000", CALLED, json.dumps(expected[1][0][1]))
            result = Turn("tool", ("Is there a red circle?",), CALLED, call_id=call.id)
            later = Conversation((*ASKED.turns, Turn("assistant", (), calls=(call,)), result), tools=TOOLS)
            assert told(await ask(vllm, later, AUTO)) == told(await ask(embedded, later, AUTO))
    finally:
        await embedded.close()
        await vllm.close()


def test_a_parser_that_vllm_does_not_have_is_refused_with_those_that_it_has():
    tool_parser.check_name("hermes")
    with pytest.raises(ModelRefusedError, match=r"--tool-call-parser=surprise: .* Accepted: .*hermes"):
        tool_parser.check_name("surprise")

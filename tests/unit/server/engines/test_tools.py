"""Tools in the embedded engine, on a Qwen2-VL whose template puts them before the image."""

import asyncio
import copy
import json
from dataclasses import replace

import pytest

from lookonce_cache import MemoryStore
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.tool_calls import join_calls
from lookonce_server.engines.tools import ToolCall, ToolChoice
from lookonce_server.engines.transformers import TransformersEngine

from ....support.samples import GREEDY, PLAN, PROMPT, TENANT, encoded, picture, read
from ....support.tool_model import TOOL_TEMPLATE, TOOLS

pytestmark = pytest.mark.anyio

WHOLE = replace(PLAN, window=(1, 3), retention=1.0)
ASKED = Conversation((Turn("system", ("Be brief.",)), Turn("user", (0, "What is at the center?"))), tools=TOOLS)


@pytest.fixture(scope="module")
def engine(qwen_model):
    processor = copy.copy(qwen_model.processor)
    processor.chat_template = TOOL_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    engine = TransformersEngine(qwen_model._replace(processor=processor))
    yield engine
    asyncio.run(engine.close())


async def test_an_answer_with_tools_is_that_of_the_same_text_behind_the_whole_image(engine, bench_with):
    image = picture(31)
    bench = bench_with(MemoryStore(), WHOLE)
    bench.engine = engine
    bench.__post_init__()
    context = await bench.create(encoded(image, "PNG"))
    found = await read(engine.answer([context], ASKED, GREEDY))
    tools = engine._prompts._tools.text_of(TOOLS, lambda text: text)
    assert tools.startswith("# Tools\n<tools>\n{")
    said = Turn("user", (f"{tools}\nBe brief.\nWhat is at the center?",))
    same = Conversation((Turn("user", (0, PROMPT)), Turn("assistant", ()), said))
    expected = await read(engine.full(same, [image], GREEDY, TENANT))
    assert (found.pieces, found.started.prompt_tokens) == (expected.pieces, expected.started.prompt_tokens)
    without = await read(engine.answer([context], replace(ASKED, tools=()), GREEDY))
    assert found.pieces != without.pieces
    full = await read(engine.full(ASKED, [image], GREEDY, TENANT))
    assert full.started.prompt_tokens == found.started.full_prompt_tokens


async def test_a_forced_call_and_its_result_with_an_image(engine):
    schema = TOOLS[0].parameters.replace(
        '"type":"object"', '"type":"object","required":["at"],"additionalProperties":false'
    )
    sampling = Sampling(60, json_schema=schema, tool_choice=ToolChoice("named", ("look",), is_parallel=False))
    found = await read(engine.full(ASKED, [picture(31)], sampling, TENANT))
    (call,) = join_calls(delta for piece in found.pieces for delta in piece.calls)
    assert (call.name, found.text, found.finish_reason) == ("look", "", "tool_calls")
    assert json.loads(call.arguments)["at"] in ("<image>", "top left")
    turns = (Turn("assistant", (), calls=(ToolCall("call00000", "look", call.arguments),)),)
    result = Turn("tool", ("A part:", 1), "look", call_id="call00000")
    later = replace(ASKED, turns=(*ASKED.turns, *turns, result))
    answers = [(await read(engine.full(later, [picture(31), picture(seed)], GREEDY, TENANT))).text for seed in (32, 33)]
    assert answers[0] != answers[1]

"""What a model thinks before it answers is apart from the answer, as in the transformers engine."""

import pytest
import torch

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.transformers import TransformersEngine

from ..support.reasoning_model import write_reasoning_model
from ..support.samples import EVERYTHING, PROMPT, Asked, picture
from .engines import answered, context_of, fully, start

pytestmark = pytest.mark.anyio

SCHEMA = '{"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}'


def reasoning_of(asked: Asked) -> str:
    return "".join(piece.reasoning or "" for piece in asked.pieces)


async def test_reasoning_is_apart_from_the_answer_in_both_engines(tmp_path):
    folder, image = write_reasoning_model(tmp_path / "model"), picture(31)
    vllm = await start(folder)
    embedded = await TransformersEngine.load(str(folder), dtype=torch.float32, device="cpu", describe_prompt=PROMPT)
    try:
        context = await context_of(embedded, image, EVERYTHING)
        for ask in (lambda e, s: fully(e, image, PROMPT, s), lambda e, s: answered(e, context, PROMPT, s)):
            found, expected = [await ask(engine, Sampling(60)) for engine in (vllm, embedded)]
            assert (reasoning_of(found), found.text) == (reasoning_of(expected), expected.text)
            assert [piece.reasoning for piece in found.pieces] == [piece.reasoning for piece in expected.pieces]
            assert len(reasoning_of(found)) > 10
            assert "<" not in reasoning_of(found)
            cut = await ask(vllm, Sampling(3))
            assert (cut.text, cut.finish_reason) == ("", "length")
            assert reasoning_of(found).startswith(reasoning_of(cut))
            held = await ask(vllm, Sampling(60, json_schema=SCHEMA))  # where it cannot think first
            assert (held.text.startswith("{"), reasoning_of(held)) == (True, "")
        assert context.description == (await context_of(vllm, image, EVERYTHING)).description
        assert context.description
    finally:
        await embedded.close()
        await vllm.close()

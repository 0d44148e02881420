"""Videos in vLLM: contexts and answers are those of the embedded engine, whose reference is plain transformers."""

import numpy as np
import pytest
import torch
from PIL import Image

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.visuals import Video

from ..support.qwen2_vl import write_qwen2_vl
from ..support.samples import PROMPT
from .engines import answered, context_of, fully, start

pytestmark = pytest.mark.anyio

QUESTION = "What is at the center?"
SAMPLING = Sampling(max_tokens=24)


def film(seed: int, frames: int = 5) -> Video:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 112, 84, 3), dtype=np.uint8)
    return Video(tuple(map(Image.fromarray, pixels)), tuple(i / 2 for i in range(frames)))


@pytest.fixture(scope="module")
async def pair(anyio_backend, tmp_path_factory):
    """vLLM and the embedded engine, on a Qwen2-VL."""
    folder = write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))
    qwen = await start(folder, num_gpu_blocks_override=40, max_model_len=416, max_num_batched_tokens=72)
    embedded = await TransformersEngine.load(str(folder), dtype=torch.float32, device="cpu", describe_prompt=PROMPT)
    yield qwen, embedded
    await qwen.close()
    await embedded.close()


async def test_contexts_and_answers_are_those_of_the_embedded_engine(pair):
    texts = set()
    for seed in range(2):
        made, expected = [await context_of(e, film(seed), retention=0.3, window=(1, 2)) for e in pair]
        assert made.grid == expected.grid == (3, 4, 3)
        assert made.full_tokens == expected.full_tokens
        torch.testing.assert_close(made.scores, expected.scores, atol=1e-4, rtol=0)
        assert torch.equal(made.kept_indices, expected.kept_indices)
        torch.testing.assert_close(made.keys.dequantize(), expected.keys.dequantize(), atol=1e-3, rtol=1e-3)
        found = [await answered(e, c, QUESTION, SAMPLING) for c in (made, expected) for e in pair]
        assert len({one.text for one in found}) == 1
        texts.add(found[0].text)
    assert len(texts) == 2  # the video matters


async def test_with_everything_kept_an_answer_is_the_full_passs(pair):
    qwen = pair[0]
    turns = Conversation((Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,))))
    context = await context_of(qwen, film(5), retention=1.0, window=(1, 2))
    whole = [await fully(engine, film(5), turns, SAMPLING) for engine in pair]
    said = await answered(qwen, context, QUESTION, SAMPLING)
    assert {said.text, *(one.text for one in whole)} == {said.text}
    assert whole[0].started.frames == (5,)


async def test_a_long_video_has_fewer_frames(pair):
    context = await context_of(pair[0], film(6, frames=80), retention=0.1, window=(1, 2))
    assert 1 < context.frames < 40

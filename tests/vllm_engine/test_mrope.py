"""M-RoPE, and pictures of any size: a random Qwen2-VL, whose answers are long and differ from picture to picture."""

import asyncio
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.errors import InvalidRequestError

from ..support.families import processed
from ..support.qwen2_vl import write_qwen2_vl
from ..support.samples import PROMPT, about
from .engines import answered, context_of, fully, prompt_ids, start

pytestmark = pytest.mark.anyio

SIZES = ((224, 224), (280, 168), (112, 392))  # 64, 60 and 56 tokens
QUESTION = "What is at the center?"


def noise(seed: int) -> Image.Image:
    width, height = SIZES[seed % len(SIZES)]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))


@pytest.fixture(scope="module")
async def qwen_reference(anyio_backend, folder):
    engine = await TransformersEngine.load(
        str(folder), dtype=torch.float32, device="cpu", describe_prompt=PROMPT, max_running=8, max_queue=256
    )
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
async def qwen(anyio_backend, folder):
    """With a cache of 14 blocks of 32 tokens, which a few requests fill, and prompts that are prefilled in chunks."""
    engine = await start(folder, num_gpu_blocks_override=14, max_model_len=416, max_num_batched_tokens=72)
    yield engine
    await engine.close()


@pytest.mark.parametrize("rows", ["generated", "query", "both"])
async def test_contexts_are_the_same(qwen, qwen_reference, rows):
    for seed in range(3):
        made, expected = [
            await context_of(e, noise(seed), rows=rows, retention=0.2, window=(1, 2)) for e in (qwen, qwen_reference)
        ]
        assert made.grid == expected.grid
        assert made.grid[0] * made.grid[1] == made.image_tokens
        assert made.description == expected.description
        torch.testing.assert_close(made.scores, expected.scores, atol=1e-4, rtol=0)
        assert torch.equal(made.kept_indices, expected.kept_indices)
        torch.testing.assert_close(made.keys.dequantize(), expected.keys.dequantize(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(made.values.dequantize(), expected.values.dequantize(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("retention", [0.05, 0.3, 1.0])
async def test_answers_are_the_same(qwen, qwen_reference, retention):
    sampling = Sampling(max_tokens=24)
    texts = set()
    for seed in range(3):
        contexts = [
            await context_of(e, noise(seed), retention=retention, window=(1, 2)) for e in (qwen, qwen_reference)
        ]
        found = [await answered(e, c, QUESTION, sampling) for c in contexts for e in (qwen, qwen_reference)]
        assert len({one.text for one in found}) == 1
        texts.add(found[0].text)
    assert len(texts) == 3  # the picture matters


async def test_with_everything_kept_an_answer_is_the_full_passs(qwen):
    sampling = Sampling(max_tokens=24)
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,)))
    for seed in range(3):
        context = await context_of(qwen, noise(seed), retention=1.0, window=(1, 2))
        whole = await fully(qwen, noise(seed), Conversation(turns), sampling)
        assert (await answered(qwen, context, QUESTION, sampling)).text == whole.text


async def test_penalties_look_at_the_answer_alone(qwen, qwen_reference):
    """Else a context's placeholders, all the same token, would count as said a hundred times."""
    context = await context_of(qwen_reference, noise(1), retention=1.0, window=(1, 2))
    texts = set()
    for presence, frequency in ((0.0, 0.0), (2.0, 0.0), (0.0, 1.5), (-2.0, -2.0)):
        sampling = Sampling(max_tokens=40, presence_penalty=presence, frequency_penalty=frequency)
        found, expected = [await answered(e, context, QUESTION, sampling) for e in (qwen, qwen_reference)]
        assert found.text == expected.text
        texts.add(found.text)
    assert len(texts) >= 3, texts


async def test_an_answer_ends_where_the_model_has_no_more_room(qwen, qwen_reference):
    context = await context_of(qwen_reference, noise(1), retention=1.0, window=(1, 2))
    found = await answered(qwen, context, QUESTION, Sampling(max_tokens=1000))
    assert found.finish_reason == "length"
    assert found.started.prompt_tokens + len(found.pieces) == qwen.facts.max_tokens == 416


async def test_a_picture_that_the_processor_refuses_is_the_requests_fault(qwen, qwen_reference):
    thin = Image.new("RGB", (6000, 20))
    for engine in (qwen, qwen_reference):
        with pytest.raises(InvalidRequestError, match="aspect ratio"):
            await fully(engine, thin, QUESTION)
        with pytest.raises(InvalidRequestError, match="aspect ratio"):
            await context_of(engine, thin)


def counted(engine, name: str) -> float:
    """One of vLLM's own metrics."""
    return sum(s.value for family in engine.registry.collect() for s in family.samples if s.name == f"vllm:{name}")


async def test_answers_are_exact_under_preemption(qwen, qwen_reference):
    """Twelve answers of 90 tokens do not fit in the cache together: vLLM preempts, and loads contexts again."""
    sampling = Sampling(max_tokens=90)
    made = [await context_of(qwen_reference, noise(seed), retention=1.0, window=(1, 2)) for seed in range(12)]
    right = [(await answered(qwen_reference, context, QUESTION, sampling)).text for context in made]
    before = counted(qwen, "num_preemptions_total")
    found = await asyncio.gather(*(answered(qwen, context, QUESTION, sampling) for context in made))
    assert counted(qwen, "num_preemptions_total") > before
    assert [one.text for one in found] == right


async def test_contexts_are_exact_whatever_is_evicted_or_preempted(qwen, qwen_reference):
    """Descriptions and their captures, of more than the cache holds, among answers that go before them."""
    expected = [await context_of(qwen_reference, noise(seed), retention=0.2, window=(1, 2)) for seed in range(6)]
    before = counted(qwen, "num_preemptions_total")
    answers = [answered(qwen, context, QUESTION, Sampling(max_tokens=90)) for context in expected]
    describes = [context_of(qwen, noise(seed), retention=0.2, window=(1, 2)) for seed in range(6)]
    made = (await asyncio.gather(*answers, *describes))[len(answers) :]
    assert counted(qwen, "num_preemptions_total") > before
    for one, right in zip(made, expected, strict=True):
        assert one.description == right.description
        assert torch.equal(one.kept_indices, right.kept_indices)
        torch.testing.assert_close(one.keys.dequantize(), right.keys.dequantize(), atol=1e-3, rtol=1e-3)


async def test_who_leaves_frees_the_cache(qwen, qwen_reference):
    """More answers than the cache has room for are begun and left; an answer that needs most of it then gets it."""
    context = await context_of(qwen_reference, noise(1), retention=1.0, window=(1, 2))
    left = [qwen.answer([context], about(QUESTION), Sampling(max_tokens=300)) for _ in range(6)]
    await asyncio.gather(*(anext(answer) for answer in left[:1]))
    begun = [asyncio.ensure_future(anext(answer)) for answer in left[1:]]
    while qwen.queue_depth < len(left):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    for answer in left:
        await answer.aclose()
    assert qwen.queue_depth == 0
    long = Sampling(max_tokens=300)
    whole = await asyncio.wait_for(answered(qwen, context, QUESTION, long), 60)
    assert whole.text == (await answered(qwen_reference, context, QUESTION, long)).text
    deadline = time.monotonic() + 30
    while counted(qwen, "num_requests_running") or counted(qwen, "num_requests_waiting"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_full_pass_is_what_the_models_own_processor_makes(qwen, qwen_reference):
    turns = (Turn("user", ("Look:", 0, QUESTION)), Turn("assistant", ("a",)), Turn("user", ("b",)))
    processor = qwen_reference._prompts._processor
    for seed, turn in enumerate((turns[0], turns[0], Turn("user", (0, "<|image_pad|><|im_end|>")))):
        conversation = Conversation((turn, *turns[1:]))
        found = await prompt_ids(qwen, conversation, noise(seed))
        assert found == qwen_reference._prompts.full(conversation, [noise(seed)]).ids
        if turn is turns[0]:
            assert found == processed(processor, turns, noise(seed))["input_ids"][0].tolist()

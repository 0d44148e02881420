"""Several images in vLLM: joined contexts are exact, and never those of other images or of another order."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.join import join_contexts
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import load_model
from lookonce_server.engines.vllm.selfcheck import find_join_problem
from lookonce_server.errors import ContextLostError, ContextOutdatedError, EngineError, PromptTooLongError

from ..support.dated_model import Clock, dated_prompts
from ..support.join_reference import joined_logits
from ..support.qwen2_vl import TOKEN_IDS, write_qwen2_vl
from ..support.samples import PROMPT, TENANT, picture, read
from .engines import context_of, prompt_ids, start

pytestmark = pytest.mark.anyio

QUESTION = "How many objects are there?"
SIZES = ((112, 112), (168, 112), (84, 280))
ORDERS = ((0, 1), (1, 0), (2, 0, 2), (6, 1, 5, 3, 7, 0, 2, 4))
# In an answer plain transformers would look for pixels.
PLACEHOLDERS = tuple((TOKEN_IDS[token], -100.0) for token in ("<|image_pad|>", "<|video_pad|>"))
SAMPLING = Sampling(max_tokens=10, logprobs=0, logit_bias=PLACEHOLDERS)


def image(seed: int) -> Image.Image:
    width, height = SIZES[seed % len(SIZES)]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def asked(count: int) -> Conversation:
    return Conversation((Turn("user", (*range(count), QUESTION)),))


@pytest.fixture(scope="module")
def qwen_loaded(tmp_path_factory):
    folder = write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))
    return folder, load_model(str(folder), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
async def qwen(anyio_backend, qwen_loaded):
    engine = await start(qwen_loaded[0], max_images=8)
    yield engine
    await engine.close()


async def check(engine, loaded, order, made, images, *, packed: bool = False, sampling: Sampling = SAMPLING) -> str:
    """Ask over joined contexts, and compare with plain transformers; returns the answer."""
    contexts = [made[i] for i in order]
    found = await read(engine.answer(contexts, asked(len(order)), sampling))
    said = [piece.logprob for piece in found.pieces if piece.logprob]
    logits = joined_logits(
        loaded, [images[i] for i in order], contexts, QUESTION, [one.token for one in said], packed=packed
    )
    for one, row in zip(said, logits.log_softmax(-1), strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
    allowed = logits.index_fill(1, torch.tensor([id_ for id_, _ in sampling.logit_bias], dtype=torch.long), -torch.inf)
    assert allowed.argmax(-1)[: len(said)].tolist() == [one.token for one in said]
    return found.text


@pytest.mark.parametrize("retention", [1.0, 0.25, 0.05])
async def test_they_answer_as_the_whole_prompt_does_by_which_no_image_sees_another(
    qwen, qwen_loaded, retention, monkeypatch
):
    """M-RoPE, two to eight images, in any order, spaced and packed."""
    images = [image(seed) for seed in range(8)]
    made = [await context_of(qwen, one, retention=retention, window=(1, 2), max_tokens=3) for one in images]
    facts, answers, packed = qwen.facts, [], 0
    for order in ORDERS:
        monkeypatch.setattr(qwen, "facts", facts)
        answers.append(await check(qwen, qwen_loaded[1], order, made, images))
        join = join_contexts(qwen._prompts, [made[i] for i in order], asked(len(order)), facts.max_tokens)
        room = join.tokens + SAMPLING.max_tokens
        if join.layout.extent + len(join.after) >= room:
            packed += 1
            monkeypatch.setattr(qwen, "facts", replace(facts, max_tokens=room))
            await check(qwen, qwen_loaded[1], order, made, images, packed=True)
    assert len({*answers}) == len(ORDERS)
    assert (packed > 0) == (retention == 0.05)


@pytest.mark.parametrize("retention", [1.0, 0.05])
async def test_they_answer_so_with_plain_positions_too(engine, reference, retention):
    loaded = load_model(str(CHECKPOINT), dtype=torch.float32, device="cpu")
    images = {seed: picture(seed) for seed in range(71, 76)}
    made = {seed: await context_of(engine, one, retention=retention, max_tokens=3) for seed, one in images.items()}
    for order in ((71, 72), (72, 71), (75, 73, 71, 74, 72)):
        sampling = replace(SAMPLING, logit_bias=())
        text = await check(engine, loaded, order, made, images, sampling=sampling)
        contexts = [made[i] for i in order]
        assert text == (await read(reference.answer(contexts, asked(len(order)), sampling))).text


async def test_other_images_and_other_orders_share_nothing(qwen, monkeypatch):
    """Swapped, dropped, repeated, reordered: neither a salt nor an answer, however often they are asked."""
    a, b, c = [await context_of(qwen, image(seed), retention=1.0, window=(1, 2), max_tokens=3) for seed in (11, 14, 17)]
    assert a.tokens == b.tokens == c.tokens
    salts, attach = {}, qwen._contexts.attach

    @asynccontextmanager
    async def noting(name, tokens, combine):
        async with attach(name, tokens, combine) as attached:
            salts.setdefault(name, set()).add(attached.salt)
            yield attached

    monkeypatch.setattr(qwen._contexts, "attach", noting)
    orders = [[a], [b], [a, b], [b, a], [a, a], [a, b, c], [a, c, b], [c, b, a], [b, c], [c, a], [a, b, a], [a, a, b]]

    def answers():
        return asyncio.gather(*(read(qwen.answer(order, asked(len(order)), SAMPLING)) for order in orders))

    first = await answers()
    assert len({one.text for one in first}) == len(orders)
    again = await answers()
    assert [one.text for one in again] == [one.text for one in first]
    assert again[-1].pieces[-1].tier == "gpu"  # what is joined is cached as one
    assert len(salts) == len(orders)
    assert all(len(one) == 1 for one in salts.values())
    assert len({salt for one in salts.values() for salt in one}) == len(orders)


async def test_a_context_that_is_lost_on_the_way_answers_nothing(qwen, monkeypatch):
    a, b = [await context_of(qwen, image(seed), retention=0.5, window=(1, 2), max_tokens=3) for seed in (21, 22)]
    right = (await read(qwen.answer([b, a], asked(2), SAMPLING))).text
    foreign = replace(b, shared_tokens=b.shared_tokens + 9, full_tokens=b.full_tokens + 9)
    for contexts in ([a, foreign], [foreign, a]):
        with pytest.raises(ContextLostError):
            await read(qwen.answer(contexts, asked(2), SAMPLING))
    share = qwen._files.share

    @asynccontextmanager
    async def losing(content, tensors):
        async with share(content, tensors) as path:
            path.unlink()
            yield path

    monkeypatch.setattr(qwen._files, "share", losing)
    with pytest.raises(ContextLostError):
        await read(qwen.answer([a, b], asked(2), SAMPLING))
    monkeypatch.undo()
    assert (await read(qwen.answer([b, a], asked(2), SAMPLING))).text == right
    assert qwen.queue_depth == 0


async def test_one_of_yesterday_answers_nothing(engine, reference, monkeypatch):
    monkeypatch.setattr(engine, "_prompts", dated_prompts(reference._prompts._processor, engine._config))
    clock = Clock(monkeypatch)
    old = await context_of(engine, picture(91), max_tokens=3)
    clock.strike()
    new = await context_of(engine, picture(92), max_tokens=3)
    for contexts in ([old, new], [new, old]):
        with pytest.raises(ContextOutdatedError):
            await read(engine.answer(contexts, asked(2), SAMPLING))


async def test_a_full_pass_shows_the_images_where_they_stand(qwen, qwen_loaded):
    images = [image(seed) for seed in (31, 32, 33)]
    turns = (Turn("user", (0, "and", 1, "Same?")), Turn("assistant", ("no",)), Turn("user", (2, 0, QUESTION)))
    embedded = TransformersEngine(qwen_loaded[1])
    try:
        for chosen in (images, images[::-1]):
            conversation = Conversation(turns)
            assert await prompt_ids(qwen, conversation, *chosen) == embedded._prompts.full(conversation, chosen).ids
            found, expected = [await read(one.full(conversation, chosen, SAMPLING, TENANT)) for one in (qwen, embedded)]
            assert found.text == expected.text
            assert found.started.prompt_tokens == expected.started.prompt_tokens
    finally:
        await embedded.close()


async def test_the_start_tells_what_cannot_be_joined(qwen, monkeypatch):
    """Here an image whose keys hang on where it stands."""
    assert qwen.facts.unjoinable is None
    capture = qwen._captures.capture

    async def shifted(prompt, **options):
        captured = await capture(prompt, **options)
        if prompt["prompt_token_ids"][:2] == [1, 1]:
            captured.tensors["keys"][0] = captured.tensors["keys"][0].roll(1, 1)
        return captured

    async def problem() -> str | None:
        return await find_join_problem(
            qwen._captures, qwen._prompts, qwen._rope, dtype="float32", describe_prompt=PROMPT
        )

    assert await problem() is None
    monkeypatch.setattr(qwen._captures, "capture", shifted)
    assert "has other keys in the first layer than alone" in await problem()

    for error in (EngineError("no room"), PromptTooLongError("too long")):

        async def failing(prompt, error=error, **options):
            raise error

        monkeypatch.setattr(qwen._captures, "capture", failing)
        assert await problem() == f"Joined contexts could not be checked: {error}"

"""Answers from joined contexts are those of plain transformers on the whole prompt with a mask."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lookonce_cache import CompressedContext
from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.join import join_contexts
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.join_reference import joined_logits
from ....support.samples import PLAN, PROMPT, TENANT, picture, read

pytestmark = pytest.mark.anyio

SEEDS = (71, 72, 73, 74, 75, 76, 77, 78)
SIZES = ((112, 112), (168, 112), (84, 280))  # of which the Qwen2-VL makes 16, 24 and 30 tokens
# By retention: which images, in which order.
ORDERS = {
    1.0: ((0, 1), (1, 0), (4, 2, 0), (2, 0, 2)),
    0.25: ((0, 1), (4, 2, 0), (6, 1, 5, 3, 7)),
    0.05: ((0, 1), (1, 0), (7, 6, 5, 4, 3, 2, 1, 0)),
}
QUESTION = "How many objects are there?"
LOGPROBS = Sampling(max_tokens=12, logprobs=0)


@pytest.fixture(scope="module")
def images():
    return [picture(seed).resize(SIZES[seed % 3]) for seed in SEEDS]


async def contexts_of(engine, images: dict[int, Image.Image], retention: float) -> dict[int, CompressedContext]:
    """The images' contexts, of two describe prompts in turn."""
    made = {}
    for at, image in images.items():
        plan = replace(
            PLAN, prompt=(PROMPT, "What is there?")[at % 2], max_tokens=3, window=(1, 3), retention=retention
        )
        identity = context_identity(
            TENANT, image.tobytes(), engine.facts, plan, engine.template_digest(plan.prompt), "native"
        )
        made[at] = context_of(identity, await engine.describe(image, plan, TENANT))
    return made


def asked(count: int) -> Conversation:
    return Conversation((Turn("user", (*range(count), QUESTION)),))


async def check(engine, model, images, contexts, *, packed: bool) -> list[int]:
    """Ask over joined contexts, and compare token for token; returns the answer's tokens."""
    banned = image_ids(model)  # in an answer plain transformers would look for pixels
    sampling = replace(LOGPROBS, logit_bias=tuple((id_, -100.0) for id_ in banned))
    found = await read(engine.answer(contexts, asked(len(contexts)), sampling))
    said = [piece.logprob for piece in found.pieces if piece.logprob]
    tokens = [one.token for one in said]
    logits = joined_logits(model, images, contexts, QUESTION, tokens, packed=packed)
    for one, row in zip(said, logits.log_softmax(-1), strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
    allowed = logits.index_fill(1, torch.tensor(banned), -torch.inf)
    assert allowed.argmax(-1)[: len(tokens)].tolist() == tokens
    return tokens


def image_ids(model) -> list[int]:
    """The tokens that stand for pixels."""
    config = model.model.config
    return [id_ for id_ in (config.image_token_id, getattr(config, "video_token_id", None)) if id_ is not None]


@pytest.mark.parametrize("retention", ORDERS)
async def test_joined_contexts_answer_as_the_whole_prompt_does_by_which_no_image_sees_another(
    rope_engine, rope_model, images, retention, monkeypatch
):
    """Two to eight images, in any order, their positions as with whole images and packed."""
    orders = ORDERS[retention]
    used = {i for order in orders for i in order}
    contexts = await contexts_of(rope_engine, {i: images[i] for i in used}, retention)
    facts, answers, packed = rope_engine.facts, [], 0
    for order in orders:
        joined, chosen = [contexts[i] for i in order], [images[i] for i in order]
        monkeypatch.undo()
        answers.append(await check(rope_engine, rope_model, chosen, joined, packed=False))
        join = join_contexts(rope_engine._prompts, joined, asked(len(joined)), facts.max_tokens)
        room = join.tokens + LOGPROBS.max_tokens
        if join.layout.extent + len(join.after) >= room:
            packed += 1
            monkeypatch.setattr(rope_engine, "facts", replace(facts, max_tokens=room))
            monkeypatch.setattr(rope_engine._runner, "window", room)
            await check(rope_engine, rope_model, chosen, joined, packed=True)
    assert packed == 0 if retention == 1 else packed or rope_model.model.config.model_type == "qwen2_vl"
    if rope_model.model.config.model_type == "qwen2_vl":  # random weights: each answer hangs on everything
        assert len({tuple(answer) for answer in answers}) == len(orders)

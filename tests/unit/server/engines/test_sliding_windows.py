"""Layers with a sliding window: what makes no context, and what is joined closer together."""

from dataclasses import replace
from typing import Any

import pytest

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.errors import PromptTooLongError
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.samples import PLAN, TENANT, Asked, about, picture, read
from ....support.sliding_windows import gemma3

pytestmark = pytest.mark.anyio

QUESTION = "What color is it?"


async def test_an_image_that_fills_a_sliding_window_makes_no_context():
    """Some layers have lost sight of its beginning where its end is. A full pass is the model's own affair."""
    engine = TransformersEngine(gemma3(sliding_window=32), max_running=1)
    try:
        with pytest.raises(PromptTooLongError, match=r"the model's sliding attention window 32: no context"):
            await engine.describe(picture(11), replace(PLAN, window=(1, 3)), TENANT)
        full = await read(engine.full(about(QUESTION), [picture(11)], Sampling(4), TENANT))
        assert full.pieces
    finally:
        await engine.close()


async def test_joined_contexts_that_reach_beyond_a_sliding_window_move_together():
    """As where they would not fit the model's positions: then each is as wide as it has tokens."""

    async def answer(**options: Any) -> Asked:
        engine = TransformersEngine(gemma3(**options), max_running=1)
        plan = replace(PLAN, retention=0.25, window=(1, 3), max_tokens=4)
        try:
            contexts = []
            for seed in (11, 12):
                description = await engine.describe(picture(seed), plan, TENANT)
                identity = context_identity(TENANT, b"", engine.facts, plan, description.template_digest, "native")
                contexts.append(context_of(identity, description))
            return await read(engine.answer(contexts, about(QUESTION, 2), Sampling(4, logprobs=0)))
        finally:
            await engine.close()

    apart = await answer()
    between = apart.started.prompt_tokens + 12  # 24 image tokens are not there
    together = await answer(sliding_window=between)
    assert together.pieces == (await answer(max_position_embeddings=between)).pieces
    assert together.pieces != apart.pieces

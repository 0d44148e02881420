"""The benchmark of several images measures what it says, in the embedded engine."""

import pytest
import torch

from lookonce_evaluation.bench import methods
from lookonce_evaluation.bench.engine import load_engine
from lookonce_evaluation.bench.images import FULL, JOINED, measure_methods, methods_of, rows_of
from lookonce_scenes import CHECKPOINT
from lookonce_server.settings import Settings


@pytest.mark.anyio
async def test_a_question_over_several_images_is_measured_by_each_method_that_fits():
    async with load_engine(CHECKPOINT, torch.float32) as engine, methods.open_memory() as store:
        contexts = await methods.describe_picture(engine, methods.png(1), Settings(), max_tokens=4)
        too_many = engine.facts.max_tokens // contexts.compressed.image_tokens + 1
        for images, fits in ((2, True), (too_many, False)):
            asked = methods_of(engine, store, contexts, None, images, has_prefix_cache=False)
            full, joined = rows_of(asked, await measure_methods(asked, rounds=2))
            assert (full["method"], joined["method"]) == (FULL, JOINED)
            assert joined["first_token_ms"].number == 2
            assert joined["KiB"] == images * contexts.compressed.nbytes // 1024
            if fits:
                assert full["computed_tokens"] > images * contexts.compressed.image_tokens > joined["computed_tokens"]
                assert joined["sooner"] == full["first_token_ms"].median / joined["first_token_ms"].median
            else:
                unmeasured = ("computed_tokens", "first_token_ms", "answer_ms", "KiB")
                assert [full[name] for name in unmeasured] == [None] * 4
                assert joined["sooner"] is None

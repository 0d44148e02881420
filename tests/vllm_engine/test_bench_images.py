"""`make bench-images` tells the prefix cache's two orders apart."""

import pytest

from lookonce_evaluation.bench import methods
from lookonce_evaluation.bench.images import (
    FULL,
    JOINED,
    OTHER,
    SAME,
    SCENES,
    load_vllm,
    measure_methods,
    methods_of,
)
from lookonce_scenes import CHECKPOINT
from lookonce_server.settings import Settings


@pytest.mark.anyio
async def test_another_order_is_computed_anew_and_joined_contexts_are_not():
    async with load_vllm(CHECKPOINT, SCENES, max_images=3) as engine, methods.open_memory() as store:
        contexts = await methods.describe_picture(engine, methods.png(1), Settings(), max_tokens=4)
        asked = methods_of(engine, store, contexts, None, 3, has_prefix_cache=True)
        times = await measure_methods(asked, rounds=1)
        computed = {method.name: answers[0].computed_tokens for method, answers in zip(asked, times, strict=True)}
        assert set(computed) == {FULL, SAME, OTHER, JOINED}
        assert computed[OTHER] == computed[FULL] > 3 * 196
        assert computed[JOINED] < computed[SAME] < computed[FULL] / 3
        assert {method.name: method.nbytes for method in asked}[SAME] > 10 * asked[-1].nbytes

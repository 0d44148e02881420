"""Benchmarks notice a wrong answer before they time any."""

from dataclasses import replace

import pytest
import torch

from lookonce_evaluation.bench import methods
from lookonce_evaluation.bench.engine import load_engine
from lookonce_evaluation.errors import EvaluationError
from lookonce_scenes import CHECKPOINT
from lookonce_server.engines.base import Sampling
from lookonce_server.settings import Settings

QUESTIONS = ("Describe the image.", "What is at the center?")


@pytest.mark.anyio
async def test_a_wrong_answer_from_a_context_is_noticed():
    async with load_engine(CHECKPOINT, torch.float32) as engine, methods.open_memory() as store:
        right, other = [
            await methods.describe_picture(engine, methods.png(seed), Settings(), max_tokens=4) for seed in (1, 2)
        ]

        async def check(*contexts):
            asked = [methods.FromContext("by id", engine, store, context, right.plan) for context in contexts]
            await methods.check_answers(engine, right, asked, QUESTIONS, Sampling(16))

        await check(right.everything, right.compressed, right.compressed)
        for context, substitute in ((right.everything, other.everything), (right.compressed, other.compressed)):
            wrong = replace(substitute, identity=context.identity)
            with pytest.raises(EvaluationError, match=r"by id: 'Describe the image\.' was answered by"):
                await check(context, wrong)

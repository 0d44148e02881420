"""Compare an engine with plain transformers: by log-probabilities of answers' tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_cache import CompressedContext
from lookonce_server.engines.base import DescribePlan, Engine, Sampling, TokenLogprob
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.sessions.context_builder import context_identity, context_of

from .plain_transformers import ASKED, QUESTION, PlainModel
from .samples import PLAN, TENANT, about, picture, read

IMAGE = picture(11).resize((150, 90))  # as wide as several tiles
SAMPLING = Sampling(max_tokens=8, logprobs=5)
MEASURED_PLAN = replace(PLAN, window=(1, 3), max_tokens=4)
RETENTIONS = (1.0, 0.25)
TOLERANCE = 5e-4  # a position wrong by one makes 0.1 in any family, and 5 in most
SHARED_FAMILIES = ("qwen2_5_vl", "internvl3", "smolvlm")  # asked by both engines over one Redis
LEAST_TOKENS = 4  # of an answer; it may end sooner than at the limit
VLLM_FAMILIES = (  # always tried
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl3",
    "smolvlm",
    "mistral3",
    "llava_onevision",
    "glm4v",
)
# Where vLLM interpolates the position embeddings of the vision tower otherwise than transformers does: a picture of the
# size that they were trained at.
VLLM_IMAGES = {"paddleocr_vl": picture(11)}
BFLOAT16_FAMILIES = ("qwen2_5_vl", "qwen3_vl", "mistral3")
Record = Callable[[str, object], None]


class Differences(NamedTuple):
    """The largest differences of log-probabilities, of an answer's tokens and of the five likeliest beside each.

    Attributes:
        full: of the full pass, from plain transformers.
        everything: of an answer from a context with all of the image, from plain transformers.
        quarter: of one with a quarter of the image tokens, from plain transformers.
        passes: of an answer from a context with all of the image, from the engine's own full pass; None where the
            template writes a blank before an answer, so that the two prompts differ in it.
    """

    full: float
    everything: float
    quarter: float
    passes: float | None


async def make_context(
    engine: Engine, image: Image.Image, retention: float, plan: DescribePlan = MEASURED_PLAN
) -> CompressedContext:
    """Return an image's context, made by that engine."""
    plan = replace(plan, retention=retention)
    identity = context_identity(
        TENANT, image.tobytes(), engine.facts, plan, engine.template_digest(plan.prompt), "native"
    )
    return context_of(identity, await engine.describe(image, plan, TENANT))


async def ask_context(engine: Engine, context: CompressedContext) -> list[TokenLogprob]:
    """Return the tokens of an answer to `QUESTION`."""
    answer = await read(engine.answer([context], about(QUESTION), SAMPLING))
    return [piece.logprob for piece in answer.pieces if piece.logprob is not None]


async def ask_image(engine: Engine, image: Image.Image, turns: tuple[Turn, ...] = ASKED) -> list[TokenLogprob]:
    """Return the same of a full pass, over the conversation that a context's answer stands on."""
    answer = await read(engine.full(Conversation(turns), [image], SAMPLING, TENANT))
    return [piece.logprob for piece in answer.pieces if piece.logprob is not None]


async def measure(engine: Engine, plain: PlainModel, image: Image.Image) -> Differences:
    """Compare an engine with plain transformers."""
    full = await ask_image(engine, image)
    everything, quarter = [await make_context(engine, image, retention) for retention in (1.0, 0.25)]
    assert quarter.kept_tokens < everything.kept_tokens == everything.image_tokens
    whole, part = await ask_context(engine, everything), await ask_context(engine, quarter)
    assert min(map(len, (full, whole, part))) >= LEAST_TOKENS
    return Differences(
        full=largest_difference(full, plain.full_logprobs(ASKED, image, _tokens(full))),
        everything=largest_difference(whole, plain.context_logprobs(everything, image, _tokens(whole))),
        quarter=largest_difference(part, plain.context_logprobs(quarter, image, _tokens(part))),
        passes=_difference(full, whole) if plain.full_text() == plain.context_text() else None,
    )


def largest_difference(found: Sequence[TokenLogprob], expected: Tensor) -> float:
    """Return the largest difference of log-probabilities; all that were told count.

    Args:
        found: an answer's tokens.
        expected: `[tokens, vocabulary]`.
    """
    return max(
        abs(logprob - float(row[token]))
        for one, row in zip(found, expected, strict=True)
        for token, logprob in ((one.token, one.logprob), *one.top)
    )


def _difference(found: Sequence[TokenLogprob], expected: Sequence[TokenLogprob]) -> float:
    if _tokens(found) != _tokens(expected):
        return inf
    return max(abs(one.logprob - other.logprob) for one, other in zip(found, expected, strict=True))


def _tokens(answer: Sequence[TokenLogprob]) -> list[int]:
    return [one.token for one in answer]


async def check_float32(
    engine: Engine, folder: Path, record: Record, image: Image.Image = IMAGE, *, to_itself: bool = False
) -> None:
    """Hold an engine to plain transformers, or to its own full pass alone, and record the differences."""
    differences = await measure(engine, PlainModel(folder), image)
    for name, difference in differences._asdict().items():
        record(name, difference)
    held = (differences.passes,) if to_itself else differences
    assert not to_itself or differences.passes is not None
    assert all(difference is None or difference < TOLERANCE for difference in held), differences


async def check_bfloat16(engine: Engine, folder: Path, record: Record) -> None:
    """Hold an engine in bfloat16 to plain transformers in float32, of which plain bfloat16 is as far away."""
    exact, rounded = PlainModel(folder), PlainModel(folder, torch.bfloat16)
    for retention in RETENTIONS:
        context = await make_context(engine, IMAGE, retention)
        answer = await ask_context(engine, context)
        assert len(answer) >= LEAST_TOKENS
        expected, plain = (model.context_logprobs(context, IMAGE, _tokens(answer)) for model in (exact, rounded))
        found, usual = largest_difference(answer, expected), float((plain - expected).abs().max())
        record(f"bfloat16 {retention}", found)
        record(f"plain bfloat16 {retention}", usual)
        assert found < 1.5 * usual

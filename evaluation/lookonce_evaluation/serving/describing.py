"""What a describe pass costs in vLLM: the description and then one captured prefill of it all, or both in one."""

import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch

from lookonce_cache import DEFAULT_TENANT
from lookonce_evaluation.benching import Spread
from lookonce_evaluation.serving.clock import ClockedEngine, StepTime
from lookonce_server.engines.base import DescribePlan, Sampling
from lookonce_server.engines.vllm.client import sampling_params
from lookonce_server.engines.vllm.connector.files import take_result
from lookonce_server.engines.vllm.connector.messages import Capture, Compression, Job
from lookonce_server.images.decode import ImageLimits, decode_image

T = TypeVar("T")


class Parts(NamedTuple):
    """One picture's describe passes, in seconds."""

    said: int  # tokens of the description
    generated: float  # the description, as any answer
    captured: float  # then the prefill of prompt and description, captured: with the former, what the engine does
    at_once: float  # the description, captured as it is generated: what another engine could do
    alike: bool  # whether both keep the same image tokens, and say the same


@dataclass
class DescribeCost:
    """Describe passes of some pictures."""

    parts: list[Parts] = field(default_factory=list)
    prefill: list[StepTime] = field(default_factory=list)  # the steps in which captured prefills ended
    at_once: list[StepTime] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Times in milliseconds."""
        names = ("generated", "captured", "at_once")
        times = {name: Spread.of(1000 * getattr(one, name) for one in self.parts) for name in names}
        both = [one.generated + one.captured for one in self.parts]
        return {
            "tokens_said": [one.said for one in self.parts],
            **{f"{name}_ms": spread._asdict() for name, spread in times.items()},
            "both_ms": Spread.of(1000 * one for one in both)._asdict(),
            "capture_holds_ms": Spread.of(1000 * (one.compressing + one.writing) for one in self.prefill)._asdict(),
            "capture_share_of_step": sum(one.compressing + one.writing for one in self.prefill)
            / sum(one.whole for one in self.prefill),
            "result_ms": Spread.of(1000 * one.compressing for one in self.prefill)._asdict(),
            "result_at_once_ms": Spread.of(1000 * one.compressing for one in self.at_once)._asdict(),
            "alike": [sum(one.alike for one in self.parts), len(self.parts)],
        }


async def describe_cost(engine: ClockedEngine, images: list[bytes], plan: DescribePlan) -> DescribeCost:
    """Describe each image in both ways, with nothing of it in any cache."""
    cost = DescribeCost()
    await engine.noted()
    for image in images:
        asked = engine._prompts.describe_ids(plan.prompt)
        prompt = engine._prompt(asked, decode_image(image, ImageLimits(), "image"), DEFAULT_TENANT)
        await engine.forget()
        (said, _), generated = await _timed(engine._said(prompt, Sampling(plan.max_tokens)))
        fed = said[:-1]
        longer = prompt | {"prompt_token_ids": [*prompt["prompt_token_ids"], *fed]}
        capture = engine._capturer.capture(longer, said=len(fed), compression=_compression(plan))
        found, captured = await _timed(capture)
        cost.prefill += await engine.noted()
        await engine.forget()
        (other, again), at_once = await _timed(_capture_while_saying(engine, prompt, plan, len(said)))
        cost.at_once += await engine.noted()
        alike = said == again and torch.equal(found.tensors["kept"], other["kept"])
        cost.parts.append(Parts(len(said), generated, captured, at_once, alike))
    return cost


async def _capture_while_saying(
    engine: ClockedEngine, prompt: dict[str, Any], plan: DescribePlan, tokens: int
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """What was captured of a description of so many tokens while it was generated, and the description."""
    path = engine._spool.new_path()
    job = Job(None, Capture(str(path), 1 - tokens, _compression(plan)))
    params = sampling_params(Sampling(tokens), job, skip_reading_prefix_cache=True)
    said: list[int] = []
    async for output in engine._requests.run(prompt, params):
        said += output.outputs[0].token_ids
    shards = take_result(path, 1)
    if isinstance(shards, str):
        raise SystemExit(f"bench: nothing was captured during the description: {shards}")
    return shards[0], said


async def _timed(work: Awaitable[T]) -> tuple[T, float]:
    started = time.perf_counter()
    return await work, time.perf_counter() - started


def _compression(plan: DescribePlan) -> Compression:
    return Compression(plan.rows, plan.window, plan.selection, plan.retention)

"""Short ways to start engines, to make contexts and to ask."""

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from lookonce_cache import CompressedContext
from lookonce_server.engines.base import DescribePlan, Engine, Sampling
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.vllm import VllmEngine
from lookonce_server.engines.vllm.client import sampling_params
from lookonce_server.sessions.context_builder import context_identity
from lookonce_server.sessions.context_builder import context_of as context_of_description

from ..support.samples import GREEDY, PLAN, PROMPT, TENANT, Asked, about, read

SMALL = {"enforce_eager": True, "kv_cache_memory_bytes": 64 * 1024**2, "block_size": 32}


async def start(folder: Path, *, max_images: int = 16, trust_remote_code: bool = False, **options) -> VllmEngine:
    """vLLM in float32 with small blocks; options are vLLM's own."""
    return await VllmEngine.load(
        str(folder),
        dtype=torch.float32,
        describe_prompt=PROMPT,
        max_queue=256,
        max_images=max_images,
        trust_remote_code=trust_remote_code,
        options=SMALL | options,
    )


async def context_of(
    engine: Engine, image: Image.Image, plan: DescribePlan = PLAN, precision: str = "native", **changes
) -> CompressedContext:
    """The image's context, made by that engine."""
    plan = replace(plan, **changes)
    template = engine.template_digest(plan.prompt)
    content = b"".join(picture.tobytes() for picture in getattr(image, "frames", (image,)))
    identity = context_identity(TENANT, content, engine.facts, plan, template, precision)
    return context_of_description(identity, await engine.describe(image, plan, TENANT))


async def answered(
    engine: Engine, context: CompressedContext, question: str | Conversation, sampling: Sampling = GREEDY
) -> Asked:
    """A whole answer from a context."""
    conversation = about(question) if isinstance(question, str) else question
    return await read(engine.answer([context], conversation, sampling))


async def fully(
    engine: Engine, image: Image.Image | None, question: str | Conversation, sampling: Sampling = GREEDY
) -> Asked:
    """A whole answer from the whole image, or from a conversation without one."""
    conversation = about(question) if isinstance(question, str) else question
    return await read(engine.full(conversation, [image] if image else [], sampling, TENANT))


async def prompt_ids(engine, conversation: Conversation, *images: Image.Image) -> list[int]:
    """What vLLM makes of a full pass's prompt."""
    prompt = engine._prompt(engine._prompts.full_ids(conversation), images, TENANT)
    (ids,) = [output.prompt_token_ids async for output in engine._client.run(prompt, sampling_params(Sampling(1)))]
    return list(ids)

"""Short ways to start vLLM, beside those to make contexts and to ask."""

from pathlib import Path

import torch
from PIL import Image

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation
from lookonce_server.engines.vllm import VllmEngine
from lookonce_server.engines.vllm.client import sampling_params

from ..support.engine_passes import answered, context_of, fully
from ..support.samples import PROMPT, TENANT

__all__ = ["PROMPT", "SMALL", "answered", "context_of", "fully", "prompt_ids", "start"]

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
        handover_bytes=64 * 1024**2,
    )


async def prompt_ids(engine, conversation: Conversation, *images: Image.Image) -> list[int]:
    """What vLLM makes of a full pass's prompt."""
    prompt = engine._prompt(engine._prompts.full_ids(conversation), images, TENANT)
    (ids,) = [output.prompt_token_ids async for output in engine._client.run(prompt, sampling_params(Sampling(1)))]
    return list(ids)

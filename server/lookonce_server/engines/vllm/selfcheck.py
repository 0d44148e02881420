"""The start-up self-check: a model on which re-prompting is not exact in vLLM is refused, with the reason.

What re-prompting stands on is tried on the model itself, by captured prefills:

- rotated keys are those that the model computes at the other position, in every layer. A prompt of one token repeated
  shows it: all its positions have the same hidden states, so that keys differ by their rotation alone;
- with everything kept, what follows a context is computed as in the full pass, even though the tokens before the image
  were computed without it: the values of every layer agree.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lookonce_pruning import PruningError, inv_freq_of_config, rotate_keys
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prefix import PrefixKV
from lookonce_server.engines.prompts import PromptRenderer, common_prefix
from lookonce_server.engines.vllm.capture_client import CaptureClient
from lookonce_server.engines.vllm.connector.messages import Compression
from lookonce_server.engines.vllm.context_prompts import ContextPrompts
from lookonce_server.errors import EngineError, ModelRefusedError

_QUESTION = Conversation((Turn("user", "", has_image=True), Turn("user", "What color is it?")))
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}  # of a tensor's length
_MOVED = 61  # positions


async def check_model(
    capturer: CaptureClient,
    contexts: ContextPrompts,
    prompts: PromptRenderer,
    config: Any,
    *,
    dtype: str,
    describe_prompt: str,
) -> None:
    """Check that a model answers from a context exactly.

    Raises:
        ModelRefusedError: it does not; the message says why.
    """
    try:
        prompts.check_template(describe_prompt)
        inv_freq = inv_freq_of_config(config.get_text_config())
        await _check_rotation(capturer, inv_freq, _TOLERANCES[dtype])
        await _check_context(capturer, contexts, prompts, describe_prompt, inv_freq, _TOLERANCES[dtype])
    except (PruningError, EngineError) as error:
        raise ModelRefusedError(f"This model cannot be served by image re-prompting: {error}") from error


async def _check_rotation(capturer: CaptureClient, inv_freq: Tensor, tolerance: float) -> None:
    some = 8
    found = await capturer.capture({"prompt_token_ids": [1] * (_MOVED + some)})
    keys = found.tensors["keys"]
    moved = rotate_keys(keys[:, :, :some], inv_freq, _MOVED)
    for layer, (here, there) in enumerate(zip(moved, keys[:, :, _MOVED:], strict=True)):
        error = _distance(here, there)
        if not error <= tolerance:
            raise ModelRefusedError(
                f"This model cannot be served by image re-prompting: layer {layer}'s keys moved by {_MOVED} positions"
                f" are off by {error:.1%} of their length; its positions are not rotate-half RoPE over all tokens."
            )


async def _check_context(
    capturer: CaptureClient,
    contexts: ContextPrompts,
    prompts: PromptRenderer,
    describe_prompt: str,
    inv_freq: Tensor,
    tolerance: float,
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    turn = prompts.describe_turn(describe_prompt)
    ids = turn.ids
    pixels = {"multi_modal_data": {"image": image}}
    after: list[int] = prompts.continuation(describe_prompt, _QUESTION)[0].tolist()
    everything = Compression("query", (0, 1), "uniform", 1.0)
    found = await capturer.capture({"prompt_token_ids": ids, **pixels}, compression=everything)
    shared = await shared_tokens(capturer, common_prefix(turn.prefix, found.prompt_ids), inv_freq)
    stored_keys, stored_values = (found.tensors[name][:, :, shared.tokens :] for name in ("keys", "values"))
    whole = shared.joined(stored_keys, stored_values, int(found.tensors["moved_by"]))
    full = await capturer.capture({"prompt_token_ids": ids + after, **pixels})
    async with contexts.lent("self-check", whole) as lent:
        found = await capturer.capture(lent.prompt(after), load=lent.load)
    expected = full.tensors["values"][:, :, -len(after) :]
    error = _distance(found.tensors["values"], expected)
    if not error <= tolerance:
        raise ModelRefusedError(
            "This model cannot be served by image re-prompting: with everything kept, what follows a context differs"
            f" from the full pass by {error:.1%} of the values' length (accepted: {tolerance:.1%})."
        )


async def shared_tokens(capturer: CaptureClient, prefix: Sequence[int], inv_freq: Tensor) -> PrefixKV:
    """The tokens before an image, computed without it; there may be none."""
    found = await capturer.capture({"prompt_token_ids": [*prefix] or [0]})  # of no tokens there is no pass
    keys, values = (found.tensors[name][:, :, : len(prefix)] for name in ("keys", "values"))
    return PrefixKV(keys, values, inv_freq)


def _distance(found: Tensor, expected: Tensor) -> float:
    """Length of the difference, as a share of the expected length; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found.float() - expected.float()).norm() / expected.float().norm())

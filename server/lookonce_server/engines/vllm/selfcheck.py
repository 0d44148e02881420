"""Refuse a model on which re-prompting is not exact in vLLM, at the start.

What re-prompting stands on is tried on the model itself, by captured prefills:

- rotated keys are those that the model computes at the other position, in every layer. A prompt of one token repeated
  shows it: all its positions have the same hidden states, so that keys differ by their rotation alone;
- with everything kept, what follows a context is computed as in the full pass, even though the tokens before the image
  were computed without it: the values of every layer agree.
"""

import sys
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lookonce_pruning import PruningError, Rope, fit_rope, rope_of_config, rotate_keys
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.description import PackedPrompt
from lookonce_server.engines.join import ContextSize, plan_join
from lookonce_server.engines.prefix import TextCache, TextKV, TextSpan
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.vllm.capture_client import CaptureClient
from lookonce_server.engines.vllm.connector.messages import Compression
from lookonce_server.engines.vllm.context_prompts import ContextPrompts
from lookonce_server.errors import EngineError, ModelRefusedError, ServerError

_QUESTION = Conversation((Turn("user", (0,)), Turn("user", ("What color is it?",))))
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}  # of a tensor's length
_MOVED = 61  # positions


async def check_model(
    captures: CaptureClient,
    contexts: ContextPrompts,
    prompts: PromptRenderer,
    config: Any,
    *,
    dtype: str,
    describe_prompt: str,
) -> Rope:
    """Check that a model answers from a context exactly.

    Returns the way in which it rotates keys.

    Raises:
        ModelRefusedError: it does not; the message says why.
    """
    try:
        prompts.check_template(describe_prompt)
        rope = await _find_rope(captures, config, _TOLERANCES[dtype])
        await _check_context(captures, contexts, prompts, describe_prompt, rope, _TOLERANCES[dtype])
        return rope
    except (PruningError, EngineError) as error:
        raise ModelRefusedError(f"This model cannot be served by image re-prompting: {error}") from error


async def find_join_problem(
    captures: CaptureClient, prompts: PromptRenderer, rope: Rope, *, dtype: str, describe_prompt: str
) -> str | None:
    """Return the reason against answers from several contexts, None if they are exact.

    vLLM takes no mask by which one image would not see another. But the first layer's keys hang on a token and its
    position alone, so that those of a describe prompt behind other tokens must be its own, moved: where the image's
    tokens stand, and how many they are, does not depend on what is before it. That the other layers' keys are moved as
    exactly is tried by `check_model`.

    Args:
        captures: to run prompts with.
        prompts: of the model.
        rope: of the model, see `check_model`.
        dtype: arithmetic of the model.
        describe_prompt: of contexts.
    """
    problem = prompts.join_problem(describe_prompt)
    if problem is not None:
        return problem
    ids, pixels = prompts.describe_turn(describe_prompt).ids, {"multi_modal_data": {"image": _noise()}}
    try:
        alone, moved = [
            (await captures.capture({"prompt_token_ids": before + ids, **pixels})).tensors["keys"][0]
            for before in ([], [1] * _MOVED)
        ]
    except ServerError as failure:  # such as a prompt that is too long for the length that was chosen
        return f"Joined contexts could not be checked: {failure}"
    error = _distance(moved[:, _MOVED:], rotate_keys(alone, rope, _MOVED))
    if error <= _TOLERANCES[dtype]:
        return None
    return (
        f"An image behind {_MOVED} other tokens has other keys in the first layer than alone: moved, they are off by"
        f" {error:.1%} of their length (accepted: {_TOLERANCES[dtype]:.1%})."
    )


async def _find_rope(captures: CaptureClient, config: Any, tolerance: float) -> Rope:
    """Find out how keys are rotated, and check it in every layer."""
    tokens = 8
    captured = await captures.capture({"prompt_token_ids": [1] * (_MOVED + tokens)})
    near, far = captured.tensors["keys"][:, :, :tokens], captured.tensors["keys"][:, :, _MOVED:]
    rope = fit_rope([rope_of_config(config.get_text_config()).inv_freq[0]], [*near], [*far], _MOVED)
    for layer, (here, there) in enumerate(zip(rotate_keys(near, rope, _MOVED), far, strict=True)):
        error = _distance(here, there)
        if not error <= tolerance:
            raise ModelRefusedError(
                f"This model cannot be served by image re-prompting: layer {layer}'s keys moved by {_MOVED} positions"
                f" are off by {error:.1%} of their length; its positions are not rotary (RoPE) in a way that is known."
            )
    return rope


async def _check_context(
    captures: CaptureClient,
    contexts: ContextPrompts,
    prompts: PromptRenderer,
    describe_prompt: str,
    rope: Rope,
    tolerance: float,
) -> None:
    pixels = {"multi_modal_data": {"image": _noise()}}
    turn = prompts.describe_turn(describe_prompt)
    joined = prompts.join([turn], _QUESTION)
    everything = Compression("query", (0, 1), "uniform", 1.0, rope.interleaved)
    captured = await captures.capture({"prompt_token_ids": turn.ids, **pixels}, compression=everything)
    described = PackedPrompt.of_tensors(captured.tensors).describe("", turn, captured.prompt_ids)
    join = plan_join(joined, [ContextSize.of_description(described)], sys.maxsize)
    texts = TextCache()
    prefix = texts.keep(join.prefix, await compute_text(captures, join.prefix))
    dense = join.combine([prefix], [(described.keys, described.values)], rope)
    full = await captures.capture({"prompt_token_ids": turn.ids + joined.after, **pixels})
    async with contexts.attach("self-check", dense.tokens, lambda: dense) as attached:
        answered = await captures.capture(attached.prompt(joined.after), load=attached.load)
    expected = full.tensors["values"][:, :, -len(joined.after) :]
    error = _distance(answered.tensors["values"], expected)
    if not error <= tolerance:
        raise ModelRefusedError(
            "This model cannot be served by image re-prompting: with everything kept, what follows a context differs"
            f" from the full pass by {error:.1%} of the values' length (accepted: {tolerance:.1%})."
        )


async def compute_text(captures: CaptureClient, span: TextSpan) -> TextKV:
    """Compute a span and the text before it, without any image; there may be none."""
    ids = [*span.before, *span.ids]
    captured = await captures.capture({"prompt_token_ids": ids or [0]})  # of no tokens there is no pass
    keys, values = (captured.tensors[name][:, :, : len(ids)] for name in ("keys", "values"))
    return TextKV(keys, values)


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))


def _distance(actual: Tensor, expected: Tensor) -> float:
    """Return the difference as a share of the length, infinite for other shapes."""
    if actual.shape != expected.shape:
        return float("inf")
    return float((actual.float() - expected.float()).norm() / expected.float().norm())

"""The start-up self-check: a model on which re-prompting is not exact is refused, with the reason.

What re-prompting stands on is tried on the model itself with a picture of noise:

- with everything kept, a question answered from the context gives the logits of the full pass, even though the tokens
  before the image were computed without it;
- with half of the image tokens dropped, packed positions give the logits of the original positions with their gaps;
- both hold at the last of the model's positions too, where no prompt of the check would reach;
- attention can be recorded in every layer, and is plainly causal;
- rotated keys, and queries, are those that the model computes at the other position, in every layer.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookonce_pruning import AttentionRecorder, PruningError, check_rotation, compress, rotate_keys
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prefix import PrefixKV
from lookonce_server.engines.prompts import Prompt, PromptRenderer, common_prefix
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.model import ModelRunner, State, stacked
from lookonce_server.errors import ModelRefusedError

_QUESTION = Conversation((Turn("user", "", has_image=True), Turn("user", "What color is it?")))


def check_model(loaded: LoadedModel, describe_prompt: str) -> None:
    """Check that a model answers from a context exactly.

    Raises:
        ModelRefusedError: it does not; the message says why.
    """
    try:
        _check(loaded, describe_prompt)
    except PruningError as error:
        raise ModelRefusedError(f"This model cannot be served by image re-prompting: {error}") from error


class _Described(NamedTuple):
    """A describe prompt, run on the model."""

    runner: ModelRunner
    prompt: Prompt
    keys: Tensor  # [layers, kv_heads, tokens, head_dim]
    values: Tensor  # like keys
    next_position: int  # RoPE position of the next token
    shared: PrefixKV

    def packed(self, kept: Tensor, after: Tensor, *, last: bool) -> Tensor:
        """Logits of what comes `after` a context with these image tokens.

        `last` moves both to the end of the model's positions.
        """
        packed = compress(
            self.keys,
            self.values,
            prompt_length=self.prompt.tokens,
            image_positions=self.prompt.image_positions,
            kept=kept[None],
            inv_freq=self.runner.inv_freq,
            next_position=self.next_position,
        )
        stored_keys, stored_values = (part[:, :, self.shared.tokens :] for part in (packed.keys, packed.values))
        whole = self.shared.joined(stored_keys, stored_values, packed.moved_by)
        moved = max(0, self.runner.max_tokens - whole.tokens - after.shape[1]) if last else 0
        cache = self.runner.cache_of(rotate_keys(whole.keys, self.runner.inv_freq, moved), whole.values)
        return self.runner.extend(cache, whole.tokens + moved, after).logits

    def gapped(self, kept: Tensor, after: Tensor) -> Tensor:
        """The same at the original positions, with gaps where image tokens were dropped."""
        columns = _without(self.prompt, kept)
        cache = self.runner.cache_of(self.keys[:, :, columns], self.values[:, :, columns])
        return self.runner.extend(cache, self.next_position, after).logits


@torch.inference_mode()
def _check(loaded: LoadedModel, describe_prompt: str) -> None:
    runner = ModelRunner(loaded.model)
    check_rotation(loaded.model, runner.inv_freq)
    prompts = PromptRenderer(loaded.processor, loaded.model.config)
    prompts.check_template(describe_prompt)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    turn = prompts.describe_turn(describe_prompt)
    prompt = prompts.shown(turn, Image.fromarray(noise))
    if not len(prompt.image_positions):
        raise ModelRefusedError("The chat template or the processor puts no image tokens in the prompt.")
    after = prompts.continuation(describe_prompt, _QUESTION)
    state = _recorded(runner, prompt)
    keys, values = stacked(state.cache, prompt.tokens)
    shared = runner.shared(common_prefix(turn.prefix, prompt.ids))
    described = _Described(runner, prompt, keys, values, state.next_position, shared)
    everything = torch.arange(len(prompt.image_positions))
    half = everything[::2]
    full = runner.prefill(_joined(prompt, after)).logits
    for kept, expected, what in (
        (everything, full, "with everything kept, the full pass"),
        (half, described.gapped(half, after), "with half of the image dropped, the original positions"),
    ):
        _compare(described.packed(kept, after, last=False), expected, what)
        _compare(described.packed(kept, after, last=True), expected, f"{what}, at the model's last positions", far=True)


def _recorded(runner: ModelRunner, prompt: Prompt) -> State:
    """Run a prompt with all its attention recorded.

    Attention that is not plainly causal is refused, as each describe pass would.
    """
    with AttentionRecorder(
        runner.model,
        image_positions=prompt.image_positions,
        prompt_length=prompt.tokens,
        window=range(runner.num_layers),
        grid=prompt.grid,
    ) as recorder:
        state = runner.prefill(prompt)
    recorder.scores()
    return state


def _joined(prompt: Prompt, after: Tensor) -> Prompt:
    """The prompt and what follows it as one prompt; inputs that have a value a token are lengthened."""
    inputs = dict(prompt.inputs)
    for name, value in prompt.inputs.items():
        if value.shape == prompt.inputs["input_ids"].shape:
            more = after if name == "input_ids" else torch.zeros_like(after)
            inputs[name] = torch.cat([value, more.to(value.dtype)], 1)
    return prompt._replace(inputs=inputs)


def _without(prompt: Prompt, kept: Tensor) -> Tensor:
    """The prompt's positions when only the `kept` image tokens stay."""
    stays = torch.ones(prompt.tokens, dtype=torch.bool)
    stays[prompt.image_positions] = False
    stays[prompt.image_positions[kept]] = True
    return stays.nonzero().flatten()


def _compare(found: Tensor, expected: Tensor, what: str, *, far: bool = False) -> None:
    """Raise ModelRefusedError unless the logits agree; `far` off the model's own angles are less exact."""
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    tolerance = 1e-3 if expected.dtype == torch.float32 and not far else 5e-2
    if not error <= tolerance:
        raise ModelRefusedError(
            f"This model cannot be served by image re-prompting: an answer from a context differs from {what}, by"
            f" {error:.1%} of the logits' length (accepted: {tolerance:.1%}). Sliding windows, layers without rotary"
            " positions, scaling by absolute position and masks that are not causal are known causes."
        )

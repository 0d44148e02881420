"""The start-up self-check: a model on which re-prompting is not exact is refused, with the reason.

What re-prompting stands on is tried on the model itself with a picture of noise:

- with everything kept, a question answered from the context gives the logits of the full pass, even though the tokens
  before the image were computed without it;
- with half of the image tokens dropped, packed positions give the logits of the original positions with their gaps;
- attention can be recorded in every layer, and is plainly causal;
- rotated keys are those that the model computes at the other position, in every layer.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookonce_pruning import AttentionRecorder, PruningError, check_rotation, compress
from lookonce_server.conversation import Conversation, Turn
from lookonce_server.engines.prompts import Prompt, PromptRenderer, common_prefix
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.runner import ModelRunner, stacked
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


@torch.inference_mode()
def _check(loaded: LoadedModel, describe_prompt: str) -> None:
    runner = ModelRunner(loaded.model)
    check_rotation(loaded.model, runner.inv_freq)
    prompts = PromptRenderer(loaded.processor, loaded.model.config)
    prompts.check_template(describe_prompt)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    turn = prompts.describe_turn(describe_prompt)
    prompt = prompts.shown(turn, Image.fromarray(noise))
    if not len(prompt.image_columns):
        raise ModelRefusedError("The chat template or the processor puts no image tokens in the prompt.")
    after = prompts.continuation(describe_prompt, _QUESTION)
    every_layer = range(runner.num_layers)
    with AttentionRecorder(  # refuses attention that is not plainly causal, as each describe pass would
        loaded.model,
        image_columns=prompt.image_columns,
        prompt_length=prompt.tokens,
        window=every_layer,
        grid=prompt.grid,
    ) as recorder:
        state = runner.prefill(prompt)
    recorder.scores()
    keys, values = stacked(state.cache, prompt.tokens)
    shared = runner.shared(common_prefix(turn.prefix, prompt.ids))

    def from_context(kept: Tensor) -> Tensor:
        packed = compress(
            keys,
            values,
            prompt_length=prompt.tokens,
            image_columns=prompt.image_columns,
            kept=kept[None],
            inv_freq=runner.inv_freq,
            next_position=state.next_position,
        )
        stored_keys, stored_values = packed.keys[:, :, shared.tokens :], packed.values[:, :, shared.tokens :]
        whole = shared.joined(stored_keys, stored_values, packed.moved_by)
        return runner.extend(runner.cache_of(whole.keys, whole.values), whole.tokens, after).logits

    everything = torch.arange(len(prompt.image_columns))
    _compare(
        from_context(everything), runner.prefill(_joined(prompt, after)).logits, "with everything kept, the full pass"
    )
    half = everything[::2]
    columns = _without(prompt, half)
    gapped = runner.cache_of(keys[:, :, columns], values[:, :, columns])
    expected = runner.extend(gapped, state.next_position, after).logits
    _compare(from_context(half), expected, "with half of the image dropped, the original positions")


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
    stays[prompt.image_columns] = False
    stays[prompt.image_columns[kept]] = True
    return stays.nonzero().flatten()


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    tolerance = 1e-3 if expected.dtype == torch.float32 else 5e-2
    if not error <= tolerance:
        raise ModelRefusedError(
            f"This model cannot be served by image re-prompting: an answer from a context differs from {what}, by"
            f" {error:.1%} of the logits' length (accepted: {tolerance:.1%}). Sliding windows, layers without rotary"
            " positions and masks that are not causal are known causes."
        )

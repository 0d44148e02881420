"""Refuse a model on which re-prompting is not exact, at the start.

What re-prompting stands on is tried on the model itself with a picture of noise:

- with everything kept, a question answered from the context gives the logits of the full pass, even though the tokens
  before the image were computed without it;
- with half of the image tokens dropped, packed positions give the logits of the original positions with their gaps;
- both hold at the last of the model's positions too, where no prompt of the check would reach;
- attention can be recorded in every layer, and is plainly causal;
- rotated keys, and queries, are those that the model computes at the other position, in every layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookonce_pruning import AttentionRecorder, ImageScores, PruningError, check_rotation, rotate_keys
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.description import Description, PackedPrompt, pack_prompt
from lookonce_server.engines.join import ContextSize, plan_join
from lookonce_server.engines.prefix import DenseContext, TextCache
from lookonce_server.engines.prompts import DescribeTurn, JoinedPrompt, Prompt, PromptRenderer
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.model import ModelRunner, stacked
from lookonce_server.errors import ModelRefusedError

_QUESTION = Conversation((Turn("user", (0,)), Turn("user", ("What color is it?",))))


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
    """A describe prompt, run on the model with all its attention recorded."""

    runner: ModelRunner
    turn: DescribeTurn
    prompt: Prompt
    keys: Tensor  # [layers, kv_heads, tokens, head_dim]
    values: Tensor  # like keys
    next_position: int  # RoPE position of the next token
    scores: ImageScores

    def packed(self, retention: float) -> PackedPrompt:
        """Pack the prompt as describe passes do."""
        return pack_prompt(
            self.scores,
            self.keys,
            self.values,
            selection="uniform",
            retention=retention,
            prompt_length=self.prompt.tokens,
            image_positions=self.prompt.image_positions,
            inv_freq=self.runner.inv_freq,
            next_position=self.next_position,
        )

    def answer(self, packed: PackedPrompt, joined: JoinedPrompt, *, last: bool) -> Tensor:
        """Return the logits after a context and its continuation, `[vocabulary]`.

        Args:
            packed: the context.
            joined: the text around and after it.
            last: whether both are moved to the end of the model's positions.
        """
        described = packed.describe("", self.turn, self.prompt.ids)
        dense = join_described(self.runner, joined, [described])
        shift = max(0, self.runner.max_tokens - dense.tokens - len(joined.after)) if last else 0
        cache = self.runner.cache_of(rotate_keys(dense.keys, self.runner.inv_freq, shift), dense.values)
        return self.runner.extend(cache, dense.tokens + shift, torch.tensor([joined.after])).logits

    def answer_with_gaps(self, kept: Tensor, after: Tensor) -> Tensor:
        """Return the same at the original positions, with gaps in the image."""
        columns = _drop_image_tokens(self.prompt, kept)
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
    prompt = prompts.process_turn(turn, Image.fromarray(noise))
    if not len(prompt.image_positions):
        raise ModelRefusedError("The chat template or the processor puts no image tokens in the prompt.")
    joined = prompts.join([turn], _QUESTION)
    after = torch.tensor([joined.after])
    described = _describe(runner, turn, prompt)
    everything, half = (described.packed(retention) for retention in (1.0, 0.5))
    full = runner.prefill(_join(prompt, after)).logits
    gapped = described.answer_with_gaps(half.kept[0].long(), after)
    for packed, expected, what in (
        (everything, full, "with everything kept, the full pass"),
        (half, gapped, "with half of the image dropped, the original positions"),
    ):
        _compare(described.answer(packed, joined, last=False), expected, what)
        _compare(
            described.answer(packed, joined, last=True), expected, f"{what}, at the model's last positions", far=True
        )


def join_described(runner: ModelRunner, joined: JoinedPrompt, descriptions: Sequence[Description]) -> DenseContext:
    """Join contexts as answers do."""
    join = plan_join(joined, list(map(ContextSize.of_description, descriptions)), runner.max_tokens)
    texts = TextCache()
    own = [(one.keys.to(runner.model.device), one.values.to(runner.model.device)) for one in descriptions]
    return join.combine([texts.keep(span, runner.text_kv(span)) for span in join.spans], own, runner.inv_freq)


def _describe(runner: ModelRunner, turn: DescribeTurn, prompt: Prompt) -> _Described:
    """Run a prompt, and refuse attention that is not plainly causal."""
    with AttentionRecorder(
        runner.model,
        image_positions=prompt.image_positions,
        prompt_length=prompt.tokens,
        window=range(runner.num_layers),
        grid=prompt.grid,
    ) as recorder:
        state = runner.prefill(prompt)
    keys, values = stacked(state.cache, prompt.tokens)
    return _Described(runner, turn, prompt, keys, values, state.next_position, recorder.scores())


def _join(prompt: Prompt, after: Tensor) -> Prompt:
    """Join a prompt and its continuation, and lengthen inputs of a value a token."""
    inputs = dict(prompt.inputs)
    for name, value in prompt.inputs.items():
        if value.shape == prompt.inputs["input_ids"].shape:
            more = after if name == "input_ids" else torch.zeros_like(after)
            inputs[name] = torch.cat([value, more.to(value.dtype)], 1)
    return prompt._replace(inputs=inputs)


def _drop_image_tokens(prompt: Prompt, kept: Tensor) -> Tensor:
    """Return the prompt's positions with only the `kept` image tokens."""
    stays = torch.ones(prompt.tokens, dtype=torch.bool)
    stays[prompt.image_positions] = False
    stays[prompt.image_positions[kept]] = True
    return stays.nonzero().flatten()


def _compare(actual: Tensor, expected: Tensor, what: str, *, far: bool = False) -> None:
    """Raise ModelRefusedError unless logits agree; `far` positions are less exact."""
    error = float((actual.float() - expected.float()).norm() / expected.float().norm())
    tolerance = 1e-3 if expected.dtype == torch.float32 and not far else 5e-2
    if not error <= tolerance:
        raise ModelRefusedError(
            f"This model cannot be served by image re-prompting: an answer from a context differs from {what}, by"
            f" {error:.1%} of the logits' length (accepted: {tolerance:.1%}). Sliding windows, layers without rotary"
            " positions, scaling by absolute position and masks that are not causal are known causes."
        )

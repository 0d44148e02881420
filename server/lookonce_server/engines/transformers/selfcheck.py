"""Refuse a model on which re-prompting is not exact, at the start.

What re-prompting stands on is tried on the model itself with a picture of noise:

- with everything kept, a question answered from the context gives the logits of the full pass, even though the tokens
  before the image were computed without it;
- with half of the image tokens dropped, packed positions give the logits of the original positions with their gaps;
- both hold at the last of the model's positions too, where no prompt of the check would reach;
- attention can be recorded in every layer that has some, and is plainly causal;
- rotated keys, and queries, are those that the model computes at the other position, in every such layer.

The states of recurrent layers are those after the whole prompt, in all of it.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig

from lookonce_pruning import (
    AttentionRecorder,
    Blocked,
    ImageScores,
    Knockout,
    PruningError,
    check_rotation,
    count_recurrent_layers,
    rotate_keys,
)
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.description import Description, PackedPrompt, pack_prompt
from lookonce_server.engines.join import ContextSize, plan_join
from lookonce_server.engines.prefix import DenseContext, TextCache, TextSpan
from lookonce_server.engines.prompts import DescribeTurn, JoinedPrompt, Prompt, PromptRenderer
from lookonce_server.engines.transformers.batch import Extension, RunningSequence, SequenceBatch, layer_problem
from lookonce_server.engines.transformers.loading import LoadedModel
from lookonce_server.engines.transformers.model import ModelRunner, stacked
from lookonce_server.errors import ModelRefusedError

_QUESTION = Conversation((Turn("user", (0,)), Turn("user", ("What color is it?",))))
_TWO_IMAGES = Conversation((Turn("user", (0, 1, "What color is it?")),))


def check_model(loaded: LoadedModel, describe_prompt: str) -> None:
    """Check that a model answers from a context exactly.

    Raises:
        ModelRefusedError: it does not; the message says why.
    """
    try:
        _check(loaded, describe_prompt)
    except PruningError as error:
        raise ModelRefusedError(f"This model cannot be served by image re-prompting: {error}") from error


def find_join_problem(loaded: LoadedModel, describe_prompt: str) -> str | None:
    """Return the reason against answers from several contexts, None if they are exact.

    With everything kept, a question to two joined contexts must give the logits of one pass over both describe prompts,
    in which neither sees the other.

    Args:
        loaded: a model that `check_model` has accepted.
        describe_prompt: of both.
    """
    prompts = PromptRenderer(loaded.processor, loaded.model.config)
    if problem := state_problem(loaded.model.config):
        return problem
    try:
        return prompts.join_problem(describe_prompt) or _check_join(loaded, prompts, describe_prompt)
    except Exception as error:  # of the model's own code, which is run here in an unusual way
        return f"Joined contexts could not be checked: {type(error).__name__}: {error}"


def state_problem(config: PreTrainedConfig) -> str | None:
    """Return the reason that a model's recurrent layers give against joining contexts.

    Args:
        config: of the model.
    """
    text = config.get_text_config()
    if not (count := count_recurrent_layers(text)):
        return None
    return (
        f"{count} of its {text.num_hidden_layers} layers are recurrent: each keeps one state of all tokens before, and"
        " the states of two images cannot be joined."
    )


def find_batch_problem(loaded: LoadedModel, text: str) -> str | None:
    """Return the reason against decoding answers together, None if it is exact.

    Sequences of different lengths that are extended together must have the logits that each has alone.

    Args:
        loaded: a model that `check_model` has accepted.
        text: of the sequences.
    """
    if problem := layer_problem(loaded.model.config.get_text_config()):
        return problem
    try:
        return _check_batch(ModelRunner(loaded.model), loaded.processor.tokenizer.encode(text) * 2)
    except Exception as error:  # of the model's own code, which is run here in an unusual way
        return f"a batch could not be checked: {type(error).__name__}: {error}"


class _Described(NamedTuple):
    """A describe prompt, run on the model with all its attention recorded."""

    runner: ModelRunner
    turn: DescribeTurn
    prompt: Prompt
    keys: Tensor  # [layers, kv_heads, tokens, head_dim]
    values: Tensor  # like keys
    states: dict[str, Tensor]  # of recurrent layers, after the prompt
    next_position: int  # RoPE position of the next token
    positions: Tensor  # of the prompt's tokens: [1, tokens], or [3, 1, tokens] in M-RoPE
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
            rope=self.runner.rope,
            next_position=self.next_position,
        )

    def answer(self, packed: PackedPrompt, joined: JoinedPrompt, *, last: bool) -> Tensor:
        """Return the logits after a context and its continuation, `[vocabulary]`.

        Args:
            packed: the context.
            joined: the text around and after it.
            last: whether both are moved to the end of the model's positions.
        """
        described = packed.describe("", self.turn, self.prompt.ids, self.states)
        dense = join_described(self.runner, joined, [described])
        shift = max(0, self.runner.max_tokens - dense.tokens - len(joined.after)) if last else 0
        keys = rotate_keys(dense.keys, self.runner.rope, shift)
        cache = self.runner.cache_of(keys, dense.values, described.states)
        return self.runner.extend(cache, dense.tokens + shift, torch.tensor([joined.after])).logits

    def answer_with_gaps(self, kept: Tensor, after: Tensor) -> Tensor:
        """Return the same at the original positions, with gaps in the image."""
        columns = _drop_image_tokens(self.prompt, kept)
        cache = self.runner.cache_of(self.keys[:, :, columns], self.values[:, :, columns], self.states)
        return self.runner.extend(cache, self.next_position, after).logits


@torch.inference_mode()
def _check(loaded: LoadedModel, describe_prompt: str) -> None:
    runner = ModelRunner(loaded.model)
    check_rotation(loaded.model, runner.rope)
    prompts = PromptRenderer(loaded.processor, loaded.model.config)
    prompts.check_template(describe_prompt)
    turn = prompts.describe_turn(describe_prompt)
    prompt = prompts.process_turn(turn, _noise(0))
    if not len(prompt.image_positions):
        raise ModelRefusedError("The chat template or the processor puts no image tokens in the prompt.")
    if prompt.tokens > runner.window < runner.max_tokens:
        raise ModelRefusedError(
            "This model cannot be served by image re-prompting: its sliding attention window of"
            f" {runner.window} tokens is shorter than a small image and the describe prompt, {prompt.tokens}."
        )
    joined = prompts.join([turn], _QUESTION)
    after = torch.tensor([joined.after])
    described = _describe(runner, turn, prompt)
    everything, half = (described.packed(retention) for retention in (1.0, 0.5))
    full = runner.prefill(_concatenate(prompt, {"input_ids": after})).logits
    gapped = described.answer_with_gaps(half.kept[0].long(), after)
    for packed, expected, what in (
        (everything, full, "with everything kept, the full pass"),
        (half, gapped, "with half of the image dropped, the original positions"),
    ):
        _compare(described.answer(packed, joined, last=False), expected, what)
        _compare(
            described.answer(packed, joined, last=True), expected, f"{what}, at the model's last positions", far=True
        )


@torch.inference_mode()
def _check_join(loaded: LoadedModel, prompts: PromptRenderer, describe_prompt: str) -> str | None:
    runner = ModelRunner(loaded.model)
    turn = prompts.describe_turn(describe_prompt)
    joined = prompts.join([turn, turn], _TWO_IMAGES)
    after = torch.tensor([joined.after])
    pair = [_describe(runner, turn, prompts.process_turn(turn, _noise(seed))) for seed in (0, 1)]
    described = [one.packed(1.0).describe("", turn, one.prompt.ids) for one in pair]
    dense = join_described(runner, joined, described)
    found = runner.extend(runner.cache_of(dense.keys, dense.values, {}), dense.tokens, after).logits
    prefixes = [one.num_prefix_tokens for one in described]
    seam = joined.seams[0][: len(joined.seams[0]) - len(turn.prefix) + prefixes[1]]
    expected = _run_apart(runner, pair, TextSpan(seam, turn.prefix[: prefixes[0]]), prefixes[1], after)
    error, accepted = _distance(found, expected), _tolerance(expected.dtype, 0.15)  # keys are rounded twice
    if error <= accepted:
        return None
    return (
        "With two images and everything kept, an answer from joined contexts differs from one pass over both in which"
        f" neither sees the other by {error:.1%} of the logits' length (accepted: {accepted:.1%})."
    )


def _check_batch(runner: ModelRunner, ids: list[int]) -> str | None:
    half = len(ids) // 2
    alone: list[Extension] = []
    together: list[Extension] = []
    for cut, end in ((half, half + 2), (half - 1, half)):
        for extensions in (alone, together):
            state = runner.prefill_text(ids[:cut])
            extensions.append(Extension(RunningSequence(state.cache, state.next_position), ids[cut:end]))
    expected = [SequenceBatch(runner).extend([one])[0] for one in alone]
    found = SequenceBatch(runner).extend(together)
    if any(one.sequence.runs_alone for one in together):
        return "a batch failed"
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Tensor) and isinstance(other, Tensor)  # noqa: PT018
        if not _distance(one, other) <= _tolerance(other.dtype, 5e-2):
            return f"in a batch the logits differ by {_distance(one, other):.1%} of their length"
    return None


def _run_apart(
    runner: ModelRunner, pair: Sequence[_Described], seam: TextSpan, num_prefix_tokens: int, after: Tensor
) -> Tensor:
    """Return the logits after two describe prompts that do not see each other.

    They stand whole one behind the other, at the positions that they have where the second one has no prefix. Between
    them is the seam, behind a copy of the prefix. What comes after sees the first prefix alone.

    Args:
        runner: of the model.
        pair: the prompts.
        seam: between them.
        num_prefix_tokens: of the second prompt.
        after: [1, tokens], ids.
    """
    first, second = pair
    between = torch.tensor([[*seam.before, *seam.ids]])
    seam_start = first.prompt.tokens
    start = seam_start + between.shape[1]
    end = start + second.prompt.tokens
    width = first.next_position - len(seam.before)
    moved = width + len(seam.before) + len(seam.ids) - num_prefix_tokens
    positions = [
        first.positions,
        runner.positions(width, between.shape[1]),
        second.positions + moved,
        runner.positions(second.next_position + moved, after.shape[1]),
    ]
    copies = [*range(seam_start, seam_start + len(seam.before)), *range(start, start + num_prefix_tokens)]
    layers = range(runner.num_layers)
    blocked = [
        Blocked(range(seam_start, start), torch.arange(seam_start), layers),
        Blocked(range(start, end), torch.arange(start), layers),
        Blocked(range(end, sys.maxsize), torch.tensor(copies, dtype=torch.int64), layers),
    ]
    prompt = _concatenate(first.prompt, {"input_ids": between}, second.prompt.inputs, {"input_ids": after})
    with Knockout(runner.model, [blocked]):
        return runner.prefill(prompt, torch.cat(positions, dim=-1)).logits


def join_described(runner: ModelRunner, joined: JoinedPrompt, descriptions: Sequence[Description]) -> DenseContext:
    """Join contexts as answers do."""
    join = plan_join(joined, list(map(ContextSize.of_description, descriptions)), sys.maxsize)
    texts = TextCache()
    own = [(one.keys.to(runner.model.device), one.values.to(runner.model.device)) for one in descriptions]
    return join.combine([texts.keep(span, runner.text_kv(span)) for span in join.spans], own, runner.rope)


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8))


def _describe(runner: ModelRunner, turn: DescribeTurn, prompt: Prompt) -> _Described:
    """Run a prompt, and refuse attention that is not plainly causal."""
    seen: list[Tensor | None] = []
    handle = runner.model.get_decoder().register_forward_pre_hook(  # type: ignore[no-untyped-call]
        lambda module, args, options: seen.append(options.get("position_ids")), with_kwargs=True
    )
    try:
        with AttentionRecorder(
            runner.model,
            image_positions=prompt.image_positions,
            prompt_length=prompt.tokens,
            window=range(runner.num_layers),
            grid=prompt.grid,
        ) as recorder:
            state = runner.prefill(prompt)
    finally:
        handle.remove()
    keys, values = stacked(state.cache, prompt.tokens)
    usual = runner.positions(0, prompt.tokens)
    positions = usual if seen[0] is None else seen[0][-len(usual) :]
    states = runner.states_of(state.cache)
    return _Described(runner, turn, prompt, keys, values, states, state.next_position, positions, recorder.scores())


def _concatenate(first: Prompt, *others: Mapping[str, Tensor]) -> Prompt:
    """Join a prompt and other inputs: those of a value a token, and pictures."""
    inputs = dict(first.inputs)
    for other in others:
        ids, more = inputs["input_ids"], other["input_ids"]
        for name, value in inputs.items():
            if value.shape == ids.shape:
                inputs[name] = torch.cat([value, other.get(name, torch.zeros_like(more)).to(value.dtype)], 1)
            elif name in other:
                inputs[name] = torch.cat([value, other[name]])
    return first._replace(inputs=inputs)


def _drop_image_tokens(prompt: Prompt, kept: Tensor) -> Tensor:
    """Return the prompt's positions with only the `kept` image tokens."""
    stays = torch.ones(prompt.tokens, dtype=torch.bool)
    stays[prompt.image_positions] = False
    stays[prompt.image_positions[kept]] = True
    return stays.nonzero().flatten()


def _compare(actual: Tensor, expected: Tensor, what: str, *, far: bool = False) -> None:
    """Raise ModelRefusedError unless logits agree; `far` positions are less exact."""
    error = _distance(actual, expected)
    tolerance = 5e-2 if far else _tolerance(expected.dtype, 5e-2)
    if not error <= tolerance:
        raise ModelRefusedError(
            f"This model cannot be served by image re-prompting: an answer from a context differs from {what}, by"
            f" {error:.1%} of the logits' length (accepted: {tolerance:.1%}). Attention masks that are not causal"
            " (prefix-LM), learned positions and scaling by absolute position are known causes."
        )


def _distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def _tolerance(dtype: torch.dtype, rounded: float) -> float:
    """Return the accepted difference, in lengths of logits; `rounded` in less than float32."""
    return 1e-3 if dtype == torch.float32 else rounded

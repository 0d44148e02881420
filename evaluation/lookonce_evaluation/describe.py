"""Describe passes for every retention and selection, and descriptions."""

from typing import NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.data.scenes import Case
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.model import EvalModel, PreparedCache
from lookonce_pruning import (
    AttentionRecorder,
    Blocked,
    ImageScores,
    Knockout,
    Rope,
    ScoreQueries,
    compress,
    get_selection,
    kept_count,
)
from lookonce_server.engines.prompts import Prompt
from lookonce_server.engines.transformers.model import stacked
from lookonce_server.engines.visuals import Visual
from lookonce_server.errors import InvalidImageError
from lookonce_server.settings import Settings


class DescribePass(NamedTuple):
    """One image's describe pass, nothing dropped yet."""

    prompt: Prompt
    keys: Tensor  # [layers, kv_heads, prompt tokens, head_dim], original positions
    values: Tensor  # like keys
    next_position: int  # of a text token after the prompt
    text: str
    recorder: AttentionRecorder
    output_ids: list[int]  # the text's tokens, the end left out
    tokens: int  # that were run: the prompt, and the text but for a last token that no other followed
    rope: Rope

    @property
    def after_image(self) -> int:
        """Position of the first token after the image."""
        return int(self.prompt.image_positions.max()) + 1

    def scores(self, rows: ScoreQueries = "generated") -> ImageScores:
        """Score each image token by what the recorded rows pay it."""
        return self.recorder.scores(rows)

    def context(self, kept: Tensor) -> PreparedCache:
        """Pack the context that keeps these image tokens, `[1 or layers, kept]`."""
        packed = compress(
            self.keys,
            self.values,
            prompt_length=self.prompt.tokens,
            image_positions=self.prompt.image_positions,
            kept=kept,
            rope=self.rope,
            next_position=self.next_position,
        )
        return PreparedCache(packed.keys, packed.values, packed.tokens)


def describe(model: EvalModel, case: Case, window: range, prompt: str | None = None) -> DescribePass:
    """Describe an image as the server would; see `describe_visual`."""
    return describe_visual(model, case.name, case.image, window, model.describe_prompt if prompt is None else prompt)


def describe_visual(model: EvalModel, name: str, visual: Visual, window: range, prompt: str) -> DescribePass:
    """Describe an image or a video as the server would, with recorded attention.

    Raises:
        EvaluationError: it and the prompt leave the model no room, or the model does not take it.
    """
    try:
        tokens = model.prompts.describe(prompt, visual)
    except InvalidImageError as error:
        raise EvaluationError(f"{name}: {error}") from error
    room = model.describe_room(tokens)
    recorder = AttentionRecorder(
        model.runner.model,
        image_positions=tokens.image_positions,
        prompt_length=tokens.tokens,
        window=window,
        grid=tokens.grid,
        layout=tokens.layout,
    )
    with recorder:
        step = model.prefill(tokens)
        next_position = step.next_position
        (output_ids,) = model.decode(step, room)
    keys, values = stacked(step.cache, tokens.tokens)
    run = tokens.tokens + min(len(output_ids), room - 1)
    text, rope = model.text(output_ids).strip(), model.runner.rope
    return DescribePass(tokens, keys, values, next_position, text, recorder, output_ids, run, rope)


def kept_tokens(described: DescribePass, share: float, settings: Settings) -> Tensor:
    """Select the tokens kept at a retention, 0 too: `[1 or layers, kept]`."""
    if not share:
        return torch.empty(1, 0, dtype=torch.int64)
    scores = described.scores(settings.rows)
    return get_selection(settings.selection).select(scores, kept_count(share, scores.tokens))


def retell(model: EvalModel, described: DescribePass, kept: Tensor) -> str:
    """Decode the description once more, with a context in the image's place.

    That is the describe pass with attention from the generated tokens to the image tokens that are not kept knocked out
    in every layer. The prompt's tokens saw the image, the last one too: so the first token is that of the description.
    """
    first = described.output_ids[:1]
    if not first:
        return ""
    (rest,) = model.decode(model.ask(described.context(kept), first), model.describe_tokens - 1)
    return model.text(first + rest).strip()


def describe_again(model: EvalModel, described: DescribePass, kept: Tensor, prompt: str) -> str:
    """Ask a prompt of a context, as any later question is."""
    step = model.ask(described.context(kept), model.after_context(prompt))
    return model.text(model.decode(step, model.describe_tokens)[0]).strip()


def blind(model: EvalModel, described: DescribePass) -> DescribePass:
    """Repeat the pass to its first token, with the image hidden from the prompt.

    Everywhere: in every layer, from all tokens after the image. The scores are those of the describe pass itself.
    """
    prompt = described.prompt
    rows = range(described.after_image, prompt.tokens)
    with Knockout(model.runner.model, [[Blocked(rows, prompt.image_positions, range(model.num_layers))]]):
        step = model.prefill(prompt)
    (output_ids,) = model.decode(step, 1)
    keys, values = stacked(step.cache, prompt.tokens)
    return described._replace(keys=keys, values=values, output_ids=output_ids, text=model.text(output_ids))

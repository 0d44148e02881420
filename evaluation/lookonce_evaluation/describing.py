"""Describe passes kept whole, so that one pass serves every retention and selection."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_pruning import AttentionRecorder, ImageScores, PackedContext, ScoreQueries, compress
from lookonce_server.engines.prompts import Prompt, PromptRenderer
from lookonce_server.engines.transformers.model import ModelRunner, State, stacked

MAX_TOKENS = 128
"""Most tokens of a description."""


class Described(NamedTuple):
    """One image's describe pass, nothing dropped yet."""

    prompt: Prompt
    keys: Tensor  # [layers, kv_heads, prompt tokens, head_dim], original positions
    values: Tensor  # like keys
    next_position: int
    text: str
    recorder: AttentionRecorder
    said: list[int]  # the text's tokens, the end token left out

    def scores(self, rows: ScoreQueries = "generated") -> ImageScores:
        """What the recorded rows pay each image token."""
        return self.recorder.scores(rows)

    def packed(self, kept: Tensor, inv_freq: Tensor) -> PackedContext:
        """The context that keeps these image tokens, `[1 or layers, kept]`."""
        return compress(
            self.keys,
            self.values,
            prompt_length=self.prompt.tokens,
            image_positions=self.prompt.image_positions,
            kept=kept,
            inv_freq=inv_freq,
            next_position=self.next_position,
        )


def describe(
    runner: ModelRunner,
    prompts: PromptRenderer,
    image: Image.Image,
    describe_prompt: str,
    *,
    window: range,
    max_tokens: int = MAX_TOKENS,
) -> Described:
    """Run a describe pass greedily with recorded attention."""
    prompt = prompts.describe(describe_prompt, image)
    recorder = AttentionRecorder(
        runner.model,
        image_positions=prompt.image_positions,
        prompt_length=prompt.tokens,
        window=window,
        grid=prompt.grid,
    )
    with recorder:
        state, said = generate(runner, prompt, prompts.tokenizer.eos_token_id, max_tokens)
    keys, values = stacked(state.cache, prompt.tokens)
    # Every generated token but the end was run, at one position each.
    next_position = state.next_position - len(said)
    return Described(prompt, keys, values, next_position, prompts.tokenizer.decode(said), recorder, said)


def generate(runner: ModelRunner, prompt: Prompt, end: int, max_tokens: int) -> tuple[State, list[int]]:
    """Prefill and decode greedily: the state at the end, and the tokens generated, the end token left out."""
    return decode(runner, runner.prefill(prompt), end, max_tokens)


def decode(
    runner: ModelRunner, state: State, end: int, max_tokens: int, enough: Callable[[list[int]], bool] = lambda _: False
) -> tuple[State, list[int]]:
    """Decode greedily until the end token, which is left out, or so many tokens, or enough of them."""
    said: list[int] = []
    while (token := int(state.logits.argmax())) != end and len(said) < max_tokens and not enough(said):
        said.append(token)
        state = runner.extend(state.cache, state.next_position, torch.tensor([[token]]))
    return state, said

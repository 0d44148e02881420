"""Describe passes kept whole, so that one pass serves every retention and selection."""

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from lookonce_pruning import AttentionRecorder, ImageScores, PackedContext, RowSource, compress
from lookonce_server.engines.prompts import Prompt, PromptRenderer
from lookonce_server.engines.transformers.runner import ModelRunner, State, stacked


class Described(NamedTuple):
    """One image's describe pass, nothing dropped yet."""

    prompt: Prompt
    keys: Tensor  # [layers, kv_heads, prompt tokens, head_dim], original positions
    values: Tensor  # like keys
    next_position: int
    text: str
    recorder: AttentionRecorder
    said: list[int]  # the text's tokens, the end token left out

    def scores(self, rows: RowSource = "generated") -> ImageScores:
        """What the recorded rows pay each image token."""
        return self.recorder.scores(rows)

    def packed(self, kept: Tensor, inv_freq: Tensor) -> PackedContext:
        """The context that keeps these image tokens, `[1 or layers, kept]`."""
        return compress(
            self.keys,
            self.values,
            prompt_length=self.prompt.tokens,
            image_columns=self.prompt.image_columns,
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
    max_tokens: int = 128,
) -> Described:
    """Run a describe pass greedily with recorded attention."""
    prompt = prompts.describe(describe_prompt, image)
    recorder = AttentionRecorder(
        runner.model,
        image_columns=prompt.image_columns,
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
    state = runner.prefill(prompt)
    said: list[int] = []
    while (token := int(state.logits.argmax())) != end and len(said) < max_tokens:
        said.append(token)
        state = runner.extend(state.cache, state.next_position, torch.tensor([[token]]))
    return state, said

"""The runner's own prefill and decoding against transformers' `generate`, on families with plain and with M-RoPE."""

import pytest
import torch

from lookonce_server.engines.prompts import Prompt
from lookonce_server.engines.transformers.model import ModelRunner, stacked

from ....support.tiny_models import FAMILIES, Tiny, built

TOKENS = 10


@pytest.fixture(params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return built(request.param)


def prompt_of(tiny: Tiny) -> Prompt:
    return Prompt({"input_ids": tiny.input_ids, **tiny.extra}, tiny.image_positions, tiny.grid)


def decode(runner: ModelRunner, state, count: int) -> list[int]:
    tokens = []
    for _ in range(count):
        tokens.append(int(state.logits.argmax()))
        state = runner.extend(state.cache, state.next_position, torch.tensor([tokens[-1:]]))
    return tokens


@torch.inference_mode()
def generated(tiny: Tiny, input_ids: torch.Tensor, **inputs) -> list[int]:
    made = tiny.model.generate(
        input_ids=input_ids, **inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, eos_token_id=None
    )
    return made[0, input_ids.shape[1] :].tolist()


def test_prefill_and_decoding_give_what_generate_gives(tiny):
    runner = ModelRunner(tiny.model)
    state = runner.prefill(prompt_of(tiny))
    assert state.next_position == tiny.next_position
    assert decode(runner, state, TOKENS) == generated(tiny, tiny.input_ids, **tiny.extra)


def test_passes_that_take_turns_do_not_disturb_each_other(tiny):
    """A text and an image in turns: models that keep positions of their last prompt would mix them up."""
    runner = ModelRunner(tiny.model)
    text = torch.tensor([[1, 9, 10, 11, 12, 13]])
    no_image = Prompt({"input_ids": text}, torch.empty(0, dtype=torch.long), (1, 0))
    alone = [decode(runner, runner.prefill(p), TOKENS) for p in (prompt_of(tiny), no_image)]
    states = [runner.prefill(prompt_of(tiny)), runner.prefill(no_image)]
    together: list[list[int]] = [[], []]
    for _ in range(TOKENS):
        for i, state in enumerate(states):
            together[i].append(int(state.logits.argmax()))
            ids = torch.tensor([together[i][-1:]])
            states[i] = runner.extend(state.cache, state.next_position, ids)
    assert together == alone


def test_a_cache_made_of_kept_states_goes_on_as_the_first_one(tiny):
    runner = ModelRunner(tiny.model)
    state = runner.prefill(prompt_of(tiny))
    keys, values = stacked(state.cache, tiny.prompt_length)
    question = torch.tensor([[14, 15, 16]])
    restored = runner.extend(runner.cache_of(keys, values, {}), state.next_position, question)
    expected = runner.extend(state.cache, state.next_position, question)
    torch.testing.assert_close(restored.logits, expected.logits, atol=1e-5, rtol=0)

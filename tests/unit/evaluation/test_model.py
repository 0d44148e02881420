"""Descriptions are those that the server gives, whatever ends them; many rows are decoded as one is."""

import asyncio

import pytest
import torch

from lookonce_cache import DEFAULT_TENANT
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.metrics.grading import full_pass
from lookonce_evaluation.model import EvalModel, about_images
from lookonce_pruning import get_selection, kept_count
from lookonce_server.engines.base import DescribePlan
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import LoadedModel

(CASE,) = held_out(1, 600_000_001)


def loaded(model) -> LoadedModel:
    return LoadedModel(model.runner.model, model.prompts._processor, "0" * 64, "0" * 64)


def served(model, settings, tokens):
    """The engine's description, by the server's settings."""
    engine = TransformersEngine(loaded(model))
    window = model.window(settings.window)
    plan = DescribePlan(settings.describe_prompt, tokens, "generated", (window.start, window.stop), "coverage", 0.05)

    async def run():
        try:
            return await engine.describe(CASE.image, plan, DEFAULT_TENANT)
        finally:
            await engine.close()

    return asyncio.run(run())


def test_a_description_is_the_servers(model, settings, monkeypatch):
    """By the defaults; with several end tokens, as chat models have; with the server's limit of tokens."""
    eos, (comma,) = model.tokenizer.eos_token_id, model.tokenizer.encode(",", add_special_tokens=False)
    texts = []
    for ends, tokens in ((eos, 128), ([eos, comma], 128), ([comma, eos], 128), (eos, 5)):
        monkeypatch.setattr(model.runner.model.generation_config, "eos_token_id", ends)
        ours = EvalModel(loaded(model), settings.model_copy(update={"describe_tokens": tokens}))
        described = describe(ours, CASE, ours.window(settings.window))
        theirs = served(ours, settings, tokens)
        assert described.text == theirs.text
        kept = get_selection("coverage").select(described.scores(), kept_count(0.05, 196))
        assert theirs.kept.tolist() == kept.tolist()
        context = described.context(kept)
        torch.testing.assert_close(theirs.keys, context.keys[:, :, theirs.num_prefix_tokens :], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs.scores, described.scores().values.mean(0), atol=1e-5, rtol=1e-4)
        assert theirs.position_shift == context.tokens - described.next_position
        texts.append(described.text)
    assert CASE.scene.caption == texts[0]
    assert texts[1] == texts[2] == texts[0].partition(",")[0]
    assert len(texts[3].split()) == 5


def test_any_end_token_ends_a_right_answer(model, settings, monkeypatch):
    """The bundled model ends answers with its tokenizer's; a model that has another one too is graded alike."""
    eos = model.tokenizer.eos_token_id
    for other in (eos - 1, eos + 1):
        monkeypatch.setattr(model.runner.model.generation_config, "eos_token_id", [other, eos])
        both = EvalModel(loaded(model), settings)
        assert full_pass(both, CASE)[0].right == full_pass(model, CASE)[0].right
        tokens = torch.tensor([[5, other], [6, eos]])
        assert both.with_one_end(tokens).tolist() == [[5, both.end_id], [6, both.end_id]]


def test_a_prompt_that_leaves_no_room_is_one_line(model, monkeypatch):
    monkeypatch.setattr(model.runner, "max_tokens", 200)
    with pytest.raises(EvaluationError, match="the describe prompt has 203 tokens, which leaves the model no room"):
        describe(model, CASE, range(1))


def test_decoding_stops_at_the_limit_or_when_it_is_enough_and_is_watched(model):
    prefix, prompt = model.prefix(CASE.image), model.after_image("Describe the image.")
    seen: list[torch.Tensor] = []
    (tokens,) = model.decode(model.ask(prefix, prompt), 60, watch=seen.append)
    assert [int(logits.argmax()) for logits in seen] == [*tokens, model.end_id]
    for limit in (0, 1, 3):
        assert model.decode(model.ask(prefix, prompt), limit) == [tokens[:limit]]
    assert model.decode(model.ask(prefix, prompt), 60, is_enough=lambda row: len(row) == 4) == [tokens[:4]]


def test_the_full_pass_of_several_images_is_their_whole_prompt(model):
    images = [case.image for case in held_out(3, 600_000_000)]
    prefix, after = model.prefix(*images), model.after_image("Which is it?", 3)
    prompt = model.prompts.full(about_images(3, "Which is it?"), images)
    assert prefix.tokens + len(after) == prompt.tokens
    whole = model.prefill(prompt).logits[0, -1]
    torch.testing.assert_close(model.ask(prefix, after).logits[0, -1], whole, atol=1e-4, rtol=1e-4)

"""Describing in vLLM as a request wants it: heard as it is made, and with another prompt than the self-check's."""

import asyncio

import pytest
import torch

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.vllm.client import sampling_params

from ..support.samples import EVERYTHING, PLAN, TENANT, picture
from .engines import answered, context_of, fully

pytestmark = pytest.mark.anyio

OTHER = "What is at the top left of the picture?"
LONG = 33  # a picture whose description fills a block of 32 tokens
QUESTIONS = ("How many objects are there?", "Find the red object.")


async def test_a_description_is_heard_as_it_is_made(engine):
    heard = []
    description = await engine.describe(picture(51), PLAN, TENANT, heard.append)
    assert heard[0] == ""
    assert len(heard) > 5
    assert "".join(heard).strip() == description.text


@pytest.mark.parametrize("prompt", [OTHER, "lookonce:description"])
async def test_an_answer_goes_on_after_the_prompt_that_its_context_was_made_with(engine, prompt):
    context = await context_of(engine, picture(51), EVERYTHING, prompt=prompt)
    for question in QUESTIONS:
        turns = (Turn("user", (0, prompt)), Turn("assistant", ()), Turn("user", (question,)))
        whole = await fully(engine, picture(51), Conversation(turns))
        found = await answered(engine, context, question)
        assert found.text == whole.text
        assert found.started.prompt_tokens == whole.started.prompt_tokens


async def test_the_engines_agree_on_what_another_prompt_and_retention_keep(engine, reference):
    made, expected = [await context_of(one, picture(52), prompt=OTHER, retention=0.2) for one in (engine, reference)]
    assert made.description == expected.description
    assert made.kept_indices.tolist() == expected.kept_indices.tolist()
    for question in QUESTIONS:
        texts = {(await answered(one, c, question)).text for one in (engine, reference) for c in (made, expected)}
        assert len(texts) == 1


@pytest.fixture
def computed(engine, monkeypatch):
    """The tokens of each captured prompt, and how many were computed for it."""
    found, capture = [], engine._captures.capture

    async def counting(*arguments, **more):
        result = await capture(*arguments, **more)
        found.append((len(result.prompt_ids), result.computed_tokens))
        return result

    monkeypatch.setattr(engine._captures, "capture", counting)
    return found


async def test_what_was_computed_for_the_description_is_not_computed_again(engine, computed, monkeypatch):
    """And what is captured is what a whole second prefill shows, which is what a cache that lost it all leads to."""
    for rows in ("generated", "query", "both"):
        computed.clear()
        made = [await context_of(engine, picture(LONG), rows=rows)]
        await engine._client._llm.reset_prefix_cache()
        made.append(await context_of(engine, picture(LONG), rows=rows))
        with monkeypatch.context() as patch:
            patch.setattr(engine._captures, "_reads_cache", False)
            made.append(await context_of(engine, picture(LONG), rows=rows))
        (tokens, again), (_, after_reset), (_, whole) = computed
        assert again == after_reset <= 32 + 26 < 192 < whole == tokens
        for one in made[:2]:
            assert torch.equal(one.kept_indices, made[2].kept_indices)
            for name in ("keys", "values"):
                torch.testing.assert_close(*(getattr(c, name).dequantize() for c in (one, made[2])), atol=1e-4, rtol=0)


async def test_blocks_that_are_evicted_meanwhile_are_computed_again(engine, computed, monkeypatch):
    whole = await context_of(engine, picture(LONG))
    generate = engine._generate_description

    async def evicting(*arguments):
        described = await generate(*arguments)
        await engine._client._llm.reset_prefix_cache()
        return described

    monkeypatch.setattr(engine, "_generate_description", evicting)
    made = await context_of(engine, picture(LONG))
    assert computed[-1][0] == computed[-1][1]
    assert torch.equal(made.kept_indices, whole.kept_indices)
    torch.testing.assert_close(made.keys.dequantize(), whole.keys.dequantize(), atol=1e-4, rtol=0)


async def test_a_question_that_was_asked_before_leaves_the_image_to_the_describe_pass(engine):
    """Where the template has the image first, nothing of the image is computed for the describe pass."""
    await fully(engine, picture(58), QUESTIONS[0])
    prompt = await asyncio.to_thread(
        engine._prompt, engine._prompts.describe_turn(PLAN.prompt).ids, [picture(58)], TENANT
    )
    async for output in engine._client.run(prompt, sampling_params(Sampling(1))):
        assert output.num_cached_tokens >= 192

"""Both engines make the same contexts, and answer alike from them, in float32."""

import asyncio

import pytest
import torch

from lookonce_cache import PRECISIONS
from lookonce_server.engines.conversation import Conversation, Turn

from ..support.samples import GREEDY, PLAN, PROMPT, TENANT, about, picture, read
from .engines import answered, context_of, fully

pytestmark = pytest.mark.anyio

QUESTIONS = ("How many objects are there?", "What is at the center?", "Find the red object.", "Is there a star?")


def test_the_engines_tell_the_same_of_the_model(engine, reference):
    assert engine.facts == reference.facts


@pytest.mark.parametrize("rows", ["generated", "query", "both"])
@pytest.mark.parametrize(("selection", "window"), [("coverage", (2, 6)), ("attention-per-layer", (0, 8))])
async def test_scores_and_kept_tokens_are_the_same(engine, reference, rows, selection, window):
    for seed in (31, 32):
        made, expected = [
            await context_of(e, picture(seed), rows=rows, selection=selection, window=window)
            for e in (engine, reference)
        ]
        assert made.description == expected.description
        torch.testing.assert_close(made.scores, expected.scores, atol=1e-4, rtol=0)
        assert torch.equal(made.kept_indices, expected.kept_indices)
        torch.testing.assert_close(made.keys.dequantize(), expected.keys.dequantize(), atol=1e-4, rtol=0)
        torch.testing.assert_close(made.values.dequantize(), expected.values.dequantize(), atol=1e-4, rtol=0)
        for name in ("grid", "full_tokens", "image_tokens", "tokens", "shared_tokens", "moved_by"):
            assert getattr(made, name) == getattr(expected, name)


@pytest.mark.parametrize("retention", [0.02, 0.05, 0.1275, 0.2, 0.5, 1.0])
async def test_answers_are_the_same_whoever_made_the_context(engine, reference, retention):
    """0.1275 keeps 25 of 196 image tokens: with the 7 others the context fills a block of 32 exactly."""
    for seed in (31, 32):
        contexts = [await context_of(e, picture(seed), retention=retention) for e in (engine, reference)]
        assert (contexts[0].tokens % 32 == 0) == (retention == 0.1275), contexts[0].tokens
        for question in QUESTIONS:
            asked = [await answered(e, c, question) for c in contexts for e in (engine, reference)]
            assert len({one.text for one in asked}) == 1, (question, [one.text for one in asked])
            assert len({one.started for one in asked}) == 1


async def test_with_everything_kept_an_answer_is_the_full_passs(engine):
    for seed in (31, 32):
        context = await context_of(engine, picture(seed), retention=1.0)
        for question in QUESTIONS:
            turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (question,)))
            whole = await fully(engine, picture(seed), Conversation(turns))
            assert (await answered(engine, context, question)).text == whole.text


async def test_full_passes_are_the_same(engine, reference):
    for seed in (31, 32, 33):
        for question in QUESTIONS:
            found, expected = [await fully(e, picture(seed), question) for e in (engine, reference)]
            assert found.text == expected.text
            assert found.started.prompt_tokens == expected.started.prompt_tokens
    plain = Conversation((Turn("user", ("What color is the star?",)),))
    found, expected = [await read(e.full(plain, [], GREEDY, TENANT)) for e in (engine, reference)]
    assert (found.text, found.started) == (expected.text, expected.started)


async def test_passes_of_all_kinds_in_one_batch_do_not_disturb_each_other(engine):
    """Ten pictures: descriptions, answers from several contexts and full passes, all at once, are those given alone."""
    pictures = [picture(seed) for seed in range(40, 50)]
    contexts = [await context_of(engine, one, retention=(0.02, 0.05, 0.2)[i % 3]) for i, one in enumerate(pictures)]

    def work():
        for i, (image, context) in enumerate(zip(pictures, contexts, strict=True)):
            yield context_of(engine, image, retention=context.identity.retention)
            for question in QUESTIONS:
                yield answered(engine, context, question)
            yield fully(engine, image, QUESTIONS[i % 4])

    alone = [await one for one in work()]
    together = await asyncio.gather(*work())
    for one, other in zip(alone, together, strict=True):
        if hasattr(one, "text"):
            assert one.text == other.text
        else:
            assert torch.equal(one.kept_indices, other.kept_indices)
            torch.testing.assert_close(one.keys.dequantize(), other.keys.dequantize(), atol=1e-4, rtol=0)
            assert one.description == other.description


async def test_what_vllm_keeps_of_one_tenants_passes_does_not_serve_anothers(engine):
    """Else an answer's speed would tell what somebody else has asked about."""

    async def computed(tenant: str) -> int:
        return (await read(engine.full(about(QUESTIONS[0]), [picture(38)], GREEDY, tenant))).started.computed_tokens

    first = await computed("acme")
    assert await computed("acme") < first
    assert await computed("other") == first
    await engine.describe(picture(38), PLAN, "third")
    assert await computed("fourth") == first


async def test_pixels_and_encoded_images_are_kept_by_tenant(engine):
    ids = [7]
    names = [engine._prompt(ids, [picture(seed)], tenant)["multi_modal_uuids"] for seed in (38, 39) for tenant in "ab"]
    assert len({str(name) for name in names}) == 4
    assert engine._prompt(ids, [picture(38)], "a")["multi_modal_uuids"] == names[0]


@pytest.mark.parametrize("precision", PRECISIONS)
async def test_a_context_in_any_precision_is_answered_alike(engine, reference, precision):
    context = await context_of(reference, picture(31), retention=0.3, precision=precision)
    for question in QUESTIONS:
        found, expected = [await answered(e, context, question) for e in (engine, reference)]
        assert (found.text, found.started) == (expected.text, expected.started)

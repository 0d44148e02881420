"""Describing in vLLM as a request wants it: heard as it is made, and with another prompt than the self-check's."""

import pytest

from lookonce_server.engines.conversation import Conversation, Turn

from ..support.samples import EVERYTHING, PLAN, TENANT, picture
from .engines import answered, context_of, fully

pytestmark = pytest.mark.anyio

OTHER = "What is at the top left of the picture?"
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

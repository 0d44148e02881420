"""Videos in the embedded engine: of a model with video tokens of its own, and of one that sees frames as images.

Both are held to plain transformers on the whole prompt; see `join_reference`.
"""

from dataclasses import replace

import pytest
import torch

from lookonce_server.engines.base import Sampling
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.visuals import Video
from lookonce_server.errors import PromptTooLongError
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.join_reference import joined_logits
from ....support.samples import GREEDY, PLAN, PROMPT, TENANT, picture, read

pytestmark = pytest.mark.anyio

QUESTION = "How many objects are there?"
SAID = Sampling(max_tokens=10, logprobs=0)


def film(*seeds: int, size: tuple[int, int] = (112, 84)) -> Video:
    return Video(tuple(picture(seed).resize(size) for seed in seeds), tuple(i / 2 for i in range(len(seeds))))


FILM, OTHER, BACKWARDS = film(71, 72, 73, 74), film(75, 76), film(74, 73, 72, 71)


def has_own(model) -> bool:
    """Whether the model has video tokens of its own."""
    return hasattr(model.model.config, "video_token_id")


async def context_made(engine, visual, retention: float):
    plan = replace(PLAN, max_tokens=4, window=(1, 3), retention=retention)
    identity = context_identity(TENANT, b"any", engine.facts, plan, engine.template_digest(PROMPT), "native")
    return context_of(identity, await engine.describe(visual, plan, TENANT))


def banned(model) -> list[int]:
    config = model.model.config
    return [id_ for id_ in (config.image_token_id, getattr(config, "video_token_id", None)) if id_ is not None]


async def answered(engine, model, visuals, contexts) -> tuple[list[int], torch.Tensor]:
    """The tokens of an answer from contexts, and the logits that plain transformers has for them."""
    sampling = replace(SAID, logit_bias=tuple((id_, -100.0) for id_ in banned(model)))
    conversation = Conversation((Turn("user", (*range(len(visuals)), QUESTION)),))
    found = await read(engine.answer(contexts, conversation, sampling))
    said = [piece.logprob for piece in found.pieces if piece.logprob]
    tokens = [one.token for one in said]
    logits = joined_logits(model, visuals, contexts, QUESTION, tokens)
    for one, row in zip(said, logits.log_softmax(-1), strict=False):
        assert one.logprob == pytest.approx(float(row[one.token]), abs=1e-4)
    allowed = logits.index_fill(1, torch.tensor(banned(model)), -torch.inf)
    assert allowed.argmax(-1)[: len(tokens)].tolist() == tokens
    return tokens, logits


@pytest.mark.parametrize("retention", [1.0, 0.2])
async def test_answers_from_videos_are_those_of_the_whole_prompt(rope_engine, rope_model, retention):
    """Alone, and joined with another video and an image."""
    image = picture(77).resize((112, 112))
    contexts = [await context_made(rope_engine, visual, retention) for visual in (FILM, OTHER, image)]
    grids = [(2, 3, 4), (1, 3, 4), (4, 4)] if has_own(rope_model) else [(4, 14, 14), (2, 14, 14), (14, 14)]
    assert [context.grid for context in contexts] == grids
    assert [context.frames for context in contexts] == [grids[0][0], grids[1][0], None]
    await answered(rope_engine, rope_model, [FILM], contexts[:1])
    await answered(rope_engine, rope_model, [image, FILM, OTHER], [contexts[2], *contexts[:2]])


async def test_another_video_or_another_order_of_frames_is_another_answer(rope_engine, rope_model):
    """The reference of a film fits no other's context."""
    context = await context_made(rope_engine, BACKWARDS, 1.0)
    tokens, own = await answered(rope_engine, rope_model, [BACKWARDS], [context])
    other = joined_logits(rope_model, [FILM], [context], QUESTION, tokens)
    assert (own - other).abs().max() > 1e-2


async def test_the_full_pass_sees_every_frame(rope_engine, rope_model):
    conversation = Conversation((Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (QUESTION,))))
    sampling = replace(SAID, logit_bias=tuple((id_, -100.0) for id_ in banned(rope_model)))
    found = await read(rope_engine.full(conversation, [FILM], sampling, TENANT))
    context = await context_made(rope_engine, FILM, 1.0)
    tokens = [piece.logprob.token for piece in found.pieces if piece.logprob]
    logits = joined_logits(rope_model, [FILM], [context], QUESTION, tokens)
    for piece, row in zip(found.pieces, logits.log_softmax(-1), strict=False):
        if piece.logprob:
            assert piece.logprob.logprob == pytest.approx(float(row[piece.logprob.token]), abs=1e-4)
    assert found.started.frames == (4,)
    asked = await read(rope_engine.answer([context], Conversation((Turn("user", (0, QUESTION)),)), GREEDY))
    alone = await read(rope_engine.full(Conversation((Turn("user", (0, QUESTION)),)), [FILM], GREEDY, TENANT))
    assert asked.started.full_prompt_tokens == alone.started.prompt_tokens


def test_a_video_has_fewer_frames_where_they_would_not_fit(rope_model):
    prompts = PromptRenderer(rope_model.processor, rope_model.model.config)
    long = film(*range(71, 87))
    whole = prompts.describe(PROMPT, long, 10**6)
    assert len(whole.images[0].frames) == 16
    for positions in (whole.tokens + 256, whole.tokens, whole.tokens // 2):
        prompt = prompts.describe(PROMPT, long, positions)
        times = prompt.images[0].times
        assert prompt.tokens + min(256, positions // 8) <= positions or len(times) == 1
        assert (times[0], times[-1]) == (long.times[0], long.times[-1]) or len(times) == 1
        assert prompt.grid[0] == (-(-len(times) // 2) if has_own(rope_model) else len(times))
    assert len(prompts.describe(PROMPT, long, 8).images[0].frames) == 1
    conversation = Conversation((Turn("user", (0, 1, 2, QUESTION)),))
    shown = prompts.full(conversation, [film(71, 72), picture(73), long], whole.tokens).images
    assert 1 <= len(shown[0].frames) <= 2 <= len(shown[2].frames) < 16


async def test_a_video_that_cannot_fit_is_refused(rope_engine, monkeypatch):
    monkeypatch.setattr(rope_engine, "facts", replace(rope_engine.facts, max_tokens=8))
    with pytest.raises(PromptTooLongError):
        await rope_engine.describe(FILM, PLAN, TENANT)


def test_marks_name_videos():
    conversation = Conversation((Turn("user", ("Look.", 0, "Then", 1, "and", 0)),), frozenset({1}))
    (message,) = conversation.after_images()
    assert message["content"][0]["text"] == "Look.\n[image 1]\nThen\n[video 2]\nand\n[image 1]"

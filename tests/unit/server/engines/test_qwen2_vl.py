"""The embedded engine on a Qwen2-VL: positions in three components, and image tokens by the picture's size.

Its weights are random but spread wide, so that each answer hangs on the picture, the question and every position.
"""

import asyncio
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lookonce_cache import MemoryStore
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import load_model
from lookonce_server.engines.transformers.model import ModelRunner
from lookonce_server.errors import InvalidImageError

from ....support.qwen2_vl import write_qwen2_vl
from ....support.samples import GREEDY, PLAN, PROMPT, TENANT, about, encoded, picture, read

pytestmark = pytest.mark.anyio

QUESTIONS = ("How many objects are there?", "What is at the center?", "Find the red object.")
SIZES = {(112, 112): (4, 4), (168, 112): (4, 6), (84, 280): (10, 3)}  # width and height: rows and columns of tokens
QUARTER = replace(PLAN, window=(1, 3), retention=0.25)
EVERYTHING = replace(QUARTER, retention=1.0)
HELLO = Conversation((Turn("user", ("Hello",)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))


@pytest.fixture(scope="module")
def loaded(folder):
    return load_model(str(folder), dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def engine(loaded):
    engine = TransformersEngine(loaded, max_running=4)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def prompts(loaded) -> PromptRenderer:
    return PromptRenderer(loaded.processor, loaded.model.config)


@pytest.fixture
def context_of(bench_with):
    """The context of a picture, made by the engine itself."""

    async def make(image: Image.Image, plan=QUARTER):
        return await bench_with(MemoryStore(), plan).create(encoded(image, "PNG"))

    return make


def sized(size: tuple[int, int], seed: int = 11) -> Image.Image:
    return picture(seed).resize(size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
async def test_the_self_check_accepts_it(folder, dtype):
    engine = await TransformersEngine.load(
        str(folder), dtype=dtype, device="cpu", describe_prompt=PROMPT, max_running=1, max_queue=1
    )
    await engine.close()


def test_its_grid_covers_the_whole_of_any_picture(engine):
    assert engine.facts.image_crop is not None
    for size in SIZES:
        assert engine.facts.image_crop.area(*size) == (0, 0, *size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_with_everything_kept_an_answer_is_the_full_passs_token_for_token(engine, context_of, size, question):
    context = await context_of(sized(size), EVERYTHING)
    assert context.tokens == context.full_tokens
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", (question,)))
    full = await read(engine.full(Conversation(turns), [sized(size)], GREEDY, TENANT))
    found = await read(engine.answer([context], about(question), GREEDY))
    assert found.pieces == full.pieces
    assert found.started.prompt_tokens == full.started.prompt_tokens


async def test_answers_hang_on_the_picture_its_shape_and_the_question(engine):
    """What the other tests compare is not one answer to everything."""
    pictures = [*map(sized, SIZES), sized((112, 112), seed=12)]
    answers = [(await read(engine.full(about(q), [p], GREEDY, TENANT))).text for p in pictures for q in QUESTIONS]
    assert len(set(answers)) == len(answers)


async def test_answers_hang_on_what_is_kept(engine, context_of):
    """And what an answer stands on when tokens were dropped is not what it stands on with all of them."""
    contexts = [await context_of(sized((168, 112)), plan) for plan in (QUARTER, EVERYTHING)]
    answers = [(await read(engine.answer([context], about(QUESTIONS[0]), GREEDY))).text for context in contexts]
    assert answers[0] != answers[1]


@pytest.mark.parametrize(("size", "grid"), SIZES.items())
async def test_a_description_has_a_score_for_every_token_of_the_grid(engine, size, grid):
    description = await engine.describe(sized(size), QUARTER, TENANT)
    assert description.grid == grid
    assert description.scores.shape == (grid[0] * grid[1],)
    assert (description.scores > 0).all()
    kept = -(-grid[0] * grid[1] // 4)
    assert description.kept.shape == (1, kept)
    assert description.keys.shape == description.values.shape
    stored = description.prompt_tokens - description.num_prefix_tokens - grid[0] * grid[1] + kept
    assert description.keys.shape[2] == stored


@pytest.mark.parametrize("size", SIZES)
def test_full_passes_decode_as_generate_does(loaded, prompts, size):
    """The image's rows and columns, not its tokens, decide where the answer's tokens stand."""
    prompt = prompts.full(about(QUESTIONS[0]), [sized(size)])
    count = 12
    runner = ModelRunner(loaded.model)
    state = runner.prefill(prompt)
    assert state.next_position == prompt.tokens - len(prompt.image_positions) + max(prompt.grid)
    said = []
    for _ in range(count):
        said.append(int(state.logits.argmax()))
        state = runner.extend(state.cache, state.next_position, torch.tensor([said[-1:]]))
    with torch.inference_mode():
        made = loaded.model.generate(
            **prompt.inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None
        )
    assert said == made[0, prompt.tokens :].tolist()


async def test_passes_that_take_turns_give_what_each_gives_alone(engine, context_of):
    """Qwen2-VL keeps an image's shift of positions in the model: the last one's, whoever asks."""
    contexts = [await context_of(sized(size)) for size in SIZES]

    def passes():
        return [
            *[read(engine.full(about(QUESTIONS[0]), [sized(size)], GREEDY, TENANT)) for size in SIZES],
            *[read(engine.answer([context], about(QUESTIONS[1]), GREEDY)) for context in contexts],
            read(engine.full(HELLO, [], GREEDY, TENANT)),
        ]

    alone = [await work for work in passes()]
    assert await asyncio.gather(*passes()) == alone


async def test_without_an_image_no_image_is_encoded(engine, loaded):
    calls = []
    handle = loaded.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        answer = await read(engine.full(HELLO, [], GREEDY, TENANT))
        assert answer.started.prompt_tokens == answer.started.computed_tokens > 0
        assert not calls
        await read(engine.full(about(QUESTIONS[0]), [sized((112, 112))], GREEDY, TENANT))
        assert calls
    finally:
        handle.remove()


def test_the_describe_prompt_is_rendered_around_the_image(prompts):
    prompt = prompts.describe(PROMPT, sized((168, 112)))
    assert prompts.tokenizer.decode(prompt.inputs["input_ids"][0]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{'<|image_pad|>' * 24}<|vision_end|>{PROMPT}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt.grid == (4, 6)
    assert len(prompts.describe_ids(PROMPT)) == prompt.tokens - 23


def test_a_question_follows_the_turn_it_closes(prompts):
    turns = (Turn("system", ("Be brief.",)), Turn("user", (0, "What is it?")))
    ids = prompts.continuation(PROMPT, Conversation(turns))
    assert prompts.tokenizer.decode(ids[0]) == (
        "<|im_end|>\n<|im_start|>user\nBe brief.\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_context_and_what_follows_it_are_the_whole_conversation(prompts):
    described = prompts.describe(PROMPT, sized((168, 112))).inputs["input_ids"]
    turns = (Turn("user", (0, PROMPT)), Turn("assistant", ()), Turn("user", ("What is it?",)))
    whole = prompts.full(Conversation(turns), [sized((168, 112))]).inputs["input_ids"]
    assert torch.equal(torch.cat([described, prompts.continuation(PROMPT, about("What is it?"))], 1), whole)


async def test_text_that_spells_an_image_or_a_video_is_text(engine, prompts, context_of):
    """M-RoPE counts images by their tokens: one more would shift every position."""
    image, context = sized((112, 112)), await context_of(sized((112, 112)))
    for stand_in in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"):
        question = about(f"What is {stand_in}?")
        assert len(prompts.full(question, [image]).image_positions) == 16
        assert stand_in in prompts.tokenizer.decode(prompts.continuation(PROMPT, question)[0])
        for answer in (engine.full(question, [image], GREEDY, TENANT), engine.answer([context], question, GREEDY)):
            assert (await read(answer)).text


async def test_a_picture_that_the_processor_does_not_take_is_an_invalid_image(engine):
    thin = Image.new("RGB", (2, 500))
    with pytest.raises(InvalidImageError, match="aspect ratio"):
        await read(engine.full(about(QUESTIONS[0]), [thin], GREEDY, TENANT))
    with pytest.raises(InvalidImageError, match="aspect ratio"):
        await engine.describe(thin, QUARTER, TENANT)

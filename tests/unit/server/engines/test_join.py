"""Where joined contexts lie, what stands between them, and that no wrong image is answered from."""

import asyncio
from dataclasses import replace
from itertools import accumulate, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lookonce_cache import PRECISIONS
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.join import ContextSize, join_contexts, lay_out, plan_join
from lookonce_server.engines.prefix import TextCache, TextKV, TextSpan
from lookonce_server.engines.prompts import JoinedPrompt, PromptRenderer
from lookonce_server.engines.transformers import TransformersEngine
from lookonce_server.engines.transformers.loading import load_model
from lookonce_server.errors import ContextLostError, ContextOutdatedError, EngineError
from lookonce_server.sessions.context_builder import context_identity, context_of

from ....support.dated_model import Clock, dated_prompts
from ....support.families import TEMPLATES, TOKENIZERS, llava, renderer_of, tokenizer_of
from ....support.qwen2_vl import write_qwen2_vl
from ....support.samples import GREEDY, PLAN, PROMPT, TENANT, picture, png, read

pytestmark = pytest.mark.anyio

QUESTION = "How many objects are there?"


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@st.composite
def joins(draw):
    """Contexts behind prefixes of nearly the same length, and the seams between them."""
    sizes = []
    for _ in range(draw(st.integers(1, 16))):
        prefix, own, width = draw(st.integers(3, 5)), draw(st.integers(1, 60)), draw(st.integers(1, 900))
        sizes.append(ContextSize(prefix, prefix + own, own - width))
    return sizes, draw(st.lists(st.integers(0, 9), min_size=len(sizes) - 1, max_size=len(sizes) - 1))


@given(joins())
def test_positions_are_those_of_the_prompt_with_whole_images_all_shifted_alike(join):
    sizes, seams = join
    layout = lay_out(sizes, seams)
    prefix = sizes[0].num_prefix_tokens
    widths = [size.tokens - size.position_shift - size.num_prefix_tokens for size in sizes]
    ends = [prefix + end for end in accumulate(a + b for a, b in zip((0, *seams), widths, strict=True))]
    shift = layout.prefix  # of the prompt's first token
    assert layout.tokens == prefix + sum(seams) + sum(size.tokens - size.num_prefix_tokens for size in sizes)
    assert layout.extent == ends[-1] == layout.tokens - shift
    for size, rotation, end in zip(sizes, layout.contexts, ends, strict=True):
        assert size.tokens + rotation == end + shift
    for seam, rotation, end in zip(seams, layout.seams, ends, strict=False):
        assert prefix + rotation == end + shift
        assert prefix + seam + rotation == end + seam + shift
    assert sizes[-1].tokens + layout.contexts[-1] == layout.tokens


@given(joins())
def test_packed_positions_have_no_gaps(join):
    sizes, seams = join
    layout = lay_out(sizes, seams, packed=True)
    assert layout.prefix == 0
    assert layout.extent == layout.tokens == lay_out(sizes, seams).tokens
    end = sizes[0].num_prefix_tokens
    for size, seam, rotation in zip(sizes, (0, *seams), layout.contexts, strict=True):
        end += seam + size.tokens - size.num_prefix_tokens
        assert size.tokens + rotation == end


@given(st.integers(0, 9), st.integers(1, 99), st.integers(-999, 99))
def test_one_context_stays_where_it_is(prefix, own, shift):
    layout = lay_out([ContextSize(prefix, prefix + own, shift)], [])
    assert layout == (shift, (), (0,), prefix + own, prefix + own - shift)


@given(joins(), st.integers(1, 20_000))
def test_it_is_packed_only_where_whole_images_would_not_fit(join, room):
    sizes, seams = join
    prefix = tuple(range(5))
    text = JoinedPrompt(prefix, tuple((*range(9)[:seam], *prefix) for seam in seams), [7] * 11)
    cut = [seam + size.num_prefix_tokens for seam, size in zip(seams, sizes[1:], strict=True)]
    plan = plan_join(text, sizes, room)
    spaced = lay_out(sizes, cut)
    fits = len(sizes) == 1 or spaced.extent + 11 < room
    assert plan.layout == (spaced if fits else lay_out(sizes, cut, packed=True))
    assert [len(span.ids) for span in plan.seams] == cut
    assert all(span.before == prefix[: sizes[0].num_prefix_tokens] for span in plan.seams)


def test_a_context_that_goes_with_another_text_is_lost():
    """Its prefix is longer than the model's, or what it has of it is not what stands there."""
    size = ContextSize(3, 10, 0)
    for prefix, seam, sizes in (
        ((1, 2), (9, 1, 2), [size]),
        ((1, 2, 3, 4), (9, 1, 2, 3, 5), [size, size]),
        ((1, 2, 3, 4), (), [size, size]),
    ):
        with pytest.raises(ContextLostError, match="tokens before the image"):
            plan_join(JoinedPrompt(prefix, (seam,) * (len(sizes) - 1), [7]), sizes, 100)


def test_texts_are_kept_apart_and_bounded():
    texts = TextCache()

    def whole(*ids: int) -> TextKV:
        keys = torch.tensor(ids, dtype=torch.float32)[None, None, :, None]
        return TextKV(keys, -keys)

    for first in range(100):
        assert texts.keep(TextSpan((first,)), whole(first)).keys.flatten().tolist() == [first]
        seam = texts.keep(TextSpan((8, 9), (first, 7)), whole(first, 7, 8, 9))
        assert seam.keys.flatten().tolist() == [8, 9]
        assert seam.keys.untyped_storage().nbytes() == 8
    assert texts.get(TextSpan((99,))).tokens == 1
    assert texts.get(TextSpan((8, 9), (99, 7))).tokens == 2
    assert texts.get(TextSpan((8, 9), (0, 7))) is texts.get(TextSpan((0,))) is None
    assert (len(texts._prefixes), len(texts._seams)) == (2, 32)


# --- what stands between them -----------------------------------------------------------------------------------------


def test_joined_describe_turns_are_tokenised_as_the_whole_text():
    """Each turn's own tokens, whatever is before and behind it."""
    tried = 0
    for kind, (name, template) in product(TOKENIZERS, TEMPLATES.items()):
        tokenizer = tokenizer_of(kind)
        if name == "looking" and "<tool_call>" not in tokenizer.get_vocab():
            continue
        renderer = renderer_of(llava(tokenizer, template))
        assert renderer.join_problem(PROMPT) is None
        first, second = (renderer.describe_turn(prompt) for prompt in (PROMPT, "What is there?"))
        for question in ("What is it?", "\u6f22?", " x"):
            conversation = Conversation((Turn("user", (0, 1, 2, question)),))
            parts = []
            for turn in (first, second, first):
                messages = Conversation((Turn("user", (0, turn.prompt)), Turn("assistant", ("@@@@",)))).as_messages()
                parts += messages
            text = renderer._processor.apply_chat_template(
                [*parts, *conversation.after_images()], add_generation_prompt=True
            )
            _, second_turn, third_turn, after = text.split("@@@@")
            alone = first.rendered.text
            blanks = alone[len(alone.rstrip()) :]
            whole = alone + second_turn.rstrip() + blanks + third_turn.rstrip() + blanks + after
            expected = tokenizer(whole, add_special_tokens=first.rendered.has_own)["input_ids"]
            joined = renderer.join([first, second, first], conversation)
            image = len(joined.prefix)
            found = [*first.ids, *joined.seams[0], *second.ids[image:], *joined.seams[1], *first.ids[image:]]
            assert found + joined.after == expected, (kind, name)
            tried += 1
    assert tried > 50


def test_the_bundled_seam(loaded):
    prompts = PromptRenderer(loaded.processor, loaded.model.config)
    turns = [prompts.describe_turn(PROMPT)] * 3
    joined = prompts.join(turns, Conversation((Turn("user", (0, 1, "and", 2, "Same?")),)))
    assert [prompts.tokenizer.decode(seam) for seam in joined.seams] == ["</s><|user|>"] * 2
    assert (
        prompts.tokenizer.decode(joined.after) == "</s><|user|>[image 1]\n[image 2]\nand\n[image 3]\nSame?<|assistant|>"
    )


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("loop.first", "other tokens"),
        ("loop.index < 5", "other tokens"),
        ("loop.first or raise_exception('One image only.')", "One image only."),
    ],
)
def test_a_template_that_shows_images_in_its_first_turns_alone_cannot_be_joined(loaded, condition, problem):
    template = TEMPLATES["chatml"].replace("{{ '<image>' if part['type'] == 'image' else part['text'] }}", (
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif " + condition.replace("loop", "turn")
        + " %}{{ '<image>' }}{% endif %}"
    )).replace("{% for part", "{% set turn = loop %}{% for part")  # fmt: skip
    renderer = renderer_of(llava(tokenizer_of("byte level"), template))
    renderer.check_template(PROMPT)
    assert problem in renderer.join_problem(PROMPT)


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A model whose answers hang on everything."""
    loaded = load_model(str(write_qwen2_vl(tmp_path_factory.mktemp("qwen2-vl"))), dtype=torch.float32, device="cpu")
    engine = TransformersEngine(loaded)
    yield engine
    asyncio.run(engine.close())


async def contexts_of(engine, *seeds: int, precision: str = "native", **changes):
    plan = replace(PLAN, **{"max_tokens": 3, "window": (1, 3), "retention": 0.25} | changes)
    made = []
    for seed in seeds:
        digest = engine.template_digest(plan.prompt)
        identity = context_identity(TENANT, png(seed), engine.facts, plan, digest, precision)
        made.append(context_of(identity, await engine.describe(picture(seed), plan, TENANT)))
    return made


def asked(count: int) -> Conversation:
    return Conversation((Turn("user", (*range(count), QUESTION)),))


async def test_images_swapped_dropped_repeated_or_in_another_order_are_answered_otherwise(qwen):
    a, b, c = await contexts_of(qwen, 81, 82, 83)
    orders = [[a], [b], [a, b], [b, a], [a, a], [a, a, b], [a, b, a], [a, b, c], [a, c, b], [c, b, a], [b, c], [c]]
    answers = [await read(qwen.answer(order, asked(len(order)), GREEDY)) for order in orders]
    assert len({answer.text for answer in answers}) == len(orders)
    again = await asyncio.gather(*(read(qwen.answer(order, asked(len(order)), GREEDY)) for order in orders))
    assert again == answers  # and taking turns, each has what it had alone


async def test_an_answer_counts_the_contexts_the_seams_and_the_whole_images(qwen):
    contexts = await contexts_of(qwen, 81, 82, 83)
    found = await read(qwen.answer(contexts, asked(3), GREEDY))
    full = await read(qwen.full(asked(3), [picture(seed) for seed in (81, 82, 83)], GREEDY, TENANT))
    assert found.started.full_prompt_tokens == full.started.full_prompt_tokens == full.started.computed_tokens
    join = join_contexts(qwen._prompts, contexts, asked(3), qwen.facts.max_tokens)
    assert found.started.prompt_tokens == join.tokens
    assert found.started.computed_tokens == len(join.after) < 30
    assert join.tokens == len(join.after) + sum(
        [contexts[0].tokens, contexts[1].stored_tokens, contexts[2].stored_tokens, *(len(s.ids) for s in join.seams)]
    )


async def test_another_number_of_contexts_than_of_images_is_a_fault(qwen):
    a, b = await contexts_of(qwen, 81, 82)
    for contexts, count in (([a], 2), ([a, b], 1), ([], 1), ([a, b], 3)):
        with pytest.raises(EngineError, match="ValueError"):
            await read(qwen.answer(contexts, asked(count), GREEDY))


async def test_contexts_of_every_make_are_joined(qwen):
    """Other retentions, selections of tokens by layer, precisions and describe prompts, an empty one too."""
    made = [
        *await contexts_of(qwen, 86, retention=0.05, selection="attention-per-layer", window=(0, 4)),
        *[one for precision in PRECISIONS for one in await contexts_of(qwen, 87, precision=precision)],
        *await contexts_of(qwen, 88, prompt="What is there?", retention=1.0),
        *await contexts_of(qwen, 88, prompt="", retention=0.01),
    ]
    found = await read(qwen.answer(made, asked(len(made)), GREEDY))
    join = join_contexts(qwen._prompts, made, asked(len(made)), qwen.facts.max_tokens)
    assert found.text
    assert found.started.prompt_tokens == join.tokens
    assert len({context.kept_tokens for context in made}) > 2


async def test_one_outdated_context_of_several_answers_nothing(loaded, monkeypatch):
    engine = TransformersEngine(loaded)
    try:
        monkeypatch.setattr(engine, "_prompts", dated_prompts(loaded.processor, loaded.model.config))
        clock = Clock(monkeypatch)
        (old,) = await contexts_of(engine, 84)
        clock.strike()
        (new,) = await contexts_of(engine, 85)
        for contexts in ([old, new], [new, old], [old]):
            with pytest.raises(ContextOutdatedError):
                await read(engine.answer(contexts, asked(len(contexts)), GREEDY))
        (renewed,) = await contexts_of(engine, 84)
        assert (await read(engine.answer([renewed, new], asked(2), GREEDY))).text
    finally:
        await engine.close()


async def test_one_foreign_context_of_several_is_lost(qwen):
    a, b = await contexts_of(qwen, 81, 82)
    foreign = replace(b, shared_tokens=b.shared_tokens + 9, full_tokens=b.full_tokens + 9)
    for contexts in ([a, foreign], [foreign, a]):
        with pytest.raises(ContextLostError):
            await read(qwen.answer(contexts, asked(2), GREEDY))


async def test_a_model_that_cannot_join_says_why(qwen, monkeypatch):
    a, b = await contexts_of(qwen, 81, 82)
    monkeypatch.setattr(qwen, "facts", replace(qwen.facts, unjoinable="Its template shows one image."))
    assert (await read(qwen.answer([a], asked(1), GREEDY))).text
    with pytest.raises(EngineError, match=r"one context at a time\. Its template shows one image\."):
        await read(qwen.answer([a, b], asked(2), GREEDY))


async def test_joined_contexts_are_the_same_after_an_answer(qwen):
    contexts = await contexts_of(qwen, 81, 82)
    before = [(c.keys.dequantize().clone(), c.values.dequantize().clone()) for c in contexts]
    await read(qwen.answer(contexts, asked(2), GREEDY))
    for context, (keys, values) in zip(contexts, before, strict=True):
        assert torch.equal(context.keys.dequantize(), keys)
        assert torch.equal(context.values.dequantize(), values)

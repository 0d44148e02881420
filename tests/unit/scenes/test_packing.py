"""A packed sample is many ordinary conversations: each question sees one, whole, at the positions it would have."""

import random
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from transformers import LlavaConfig

from lookonce_scenes.forms import JOINT_HEAD, SEVERAL_TEXT, SINGLE_TEXT, SYSTEM_PROMPTS, Exercise, Packer
from lookonce_scenes.model import build_config
from lookonce_scenes.packing import (
    CATEGORIES,
    IGNORE,
    MAX_SEGMENTS,
    PATCH_ROWS,
    context_drop,
    draw_rate,
    patch_labels,
)
from lookonce_scenes.questions import DESCRIBE_PROMPTS
from lookonce_scenes.tokenizer import ASSISTANT, EOS, GRID, IMAGE, IMAGE_TOKENS, PAD, PATCH_SIZE, USER
from lookonce_scenes.video import DESCRIBE_VIDEO
from lookonce_scenes.world import NARROW, SIZES, WIDE, masks, sample_scene
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer

from .oracle import those
from .packed import answered, labels_of, messages, one_token_an_image, said_before_answer

EXERCISES = (
    Exercise("single", 1, drop_rate=0.6, system=SYSTEM_PROMPTS[1]),
    Exercise("single", 1, drop_rate=0.6),
    Exercise("joined", 2, drop_rate=0.6),
    Exercise("joined", 4, drop_rate=0.6),
    Exercise("joint", 2, drop_rate=0.6, system=SYSTEM_PROMPTS[0]),
    Exercise("joint", 3, drop_rate=0.6),
    Exercise("video", 4, drop_rate=0.6),
)
SAMPLES = 40


@pytest.fixture(scope="module")
def samples(tokenizer):
    """Samples of every exercise, with the scenes."""
    packer = Packer(tokenizer)
    return {e: [packer.pack(seed * 8, e) for seed in range(SAMPLES)] for e in EXERCISES}


@pytest.fixture(scope="module")
def prompts(processor, tokenizer):
    return PromptRenderer(processor, LlavaConfig.from_dict(build_config(len(tokenizer)).to_dict()))


def every(samples, *forms: str, step: int = 1):
    """Every answered segment of those forms, or one in so many, with what it belongs to."""
    for exercise, packed in samples.items():
        for scenes, sample in packed:
            if not forms or exercise.form in forms:
                for question in answered(sample)[::step]:
                    yield exercise, scenes, sample, question


def test_the_same_seed_gives_the_same_sample(tokenizer, samples):
    for exercise in EXERCISES:
        scenes, sample = Packer(tokenizer).pack(24, exercise)
        assert scenes == samples[exercise][3][0]
        for first, second in zip(sample, samples[exercise][3][1], strict=True):
            np.testing.assert_array_equal(first, second)


def test_shapes_are_the_same_for_every_sample_of_an_exercise(samples):
    for exercise, packed in samples.items():
        text = SINGLE_TEXT if exercise.images == 1 else SEVERAL_TEXT
        heads = {len(sample.head) for _, sample in packed}
        assert len(heads) == 1
        assert exercise.form != "joint" or heads == {JOINT_HEAD}
        for scenes, sample in packed:
            assert len(scenes) == exercise.images
            assert sample.ids.shape == sample.labels.shape == sample.weights.shape == (text,)
            assert sample.positions.shape == (len(sample.head) + exercise.images * IMAGE_TOKENS + text,)
            assert sample.segments.shape == sample.positions.shape
            assert sample.visible.shape == (MAX_SEGMENTS, MAX_SEGMENTS)
            assert sample.image_kept.shape == (MAX_SEGMENTS, exercise.images * IMAGE_TOKENS)
            assert sample.patches.shape == (exercise.images, PATCH_ROWS, IMAGE_TOKENS)


def test_a_question_sees_one_conversation_without_gaps_as_the_template_renders_it(processor, samples):
    for exercise, scenes, sample, question in every(samples, step=5):
        if 1 not in sample.visible[question.segment].nonzero()[0]:
            assert exercise.form == "joined"  # a later picture's own description
            continue
        assert sample.positions[question.rows].tolist() == list(range(len(question.rows)))
        assert question.ids.count(IMAGE) in (IMAGE_TOKENS, len(scenes) * IMAGE_TOKENS)
        ids = one_token_an_image(question.ids)
        chat = messages(processor.tokenizer, question.ids)
        rendered = processor.apply_chat_template(chat, tokenize=False)
        closed = processor.tokenizer.encode(rendered, add_special_tokens=False)
        assert closed[: len(ids)] == ids
        assert closed[len(ids) :] in ([], [EOS])  # where the describe turn itself is what is answered


def test_a_joined_question_is_the_describe_turns_answered_with_nothing_and_then_what_is_asked(processor, samples):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": DESCRIBE_PROMPTS[0]}]}
    nothing = {"role": "assistant", "content": ""}
    compared = 0
    for _, scenes, _, question in every(samples, "joined", step=4):
        chat = messages(processor.tokenizer, question.ids)
        described = len(scenes) * 2
        if len(chat) <= described or chat[1]["content"]:
            continue
        asked = chat[described:-1]
        assert asked[0]["role"] == "user"
        rendered = processor.apply_chat_template(
            [turn, nothing] * len(scenes) + asked, add_generation_prompt=True, tokenize=False
        )
        expected = processor.tokenizer.encode(rendered, add_special_tokens=False)
        assert one_token_an_image(said_before_answer(question)) == expected
        compared += 1
    assert compared > 2 * SAMPLES


def as_turns(chat) -> Conversation:
    return Conversation(tuple(Turn(m["role"], tuple(part.get("text", 0) for part in m["content"])) for m in chat))


def test_questions_of_one_picture_are_what_the_server_asks(prompts, tokenizer, samples):
    """In a full pass, and of a context, with its system text where that puts it."""
    forms = Counter()
    for exercise, _, _, question in every(samples, "single", step=3):
        before = said_before_answer(question)
        chat = messages(tokenizer, before)[:-1]
        said = ["".join(part.get("text", "") for part in m["content"]) for m in chat]
        users = [i for i, m in enumerate(chat) if m["role"] == "user"]
        if len(users) > 1 and chat[users[0] + 1]["content"] == []:
            asked = as_turns(chat[users[1] :])
            assert said[users[0]] in DESCRIBE_PROMPTS
            continuation = prompts.continuation(said[users[0]], asked)[0].tolist()
            at = before.index(ASSISTANT) + 1
            assert before[at:] == continuation
            forms["system" if "\n" in said[users[1]] else "context"] += 1
            if "\n" in said[users[1]]:
                system, _, rest = said[users[1]].partition("\n")
                turns = (Turn("system", (system,)), Turn("user", (0, rest)), *asked.turns[1:])
                assert prompts.continuation(said[users[0]], Conversation(turns))[0].tolist() == continuation
        else:
            assert one_token_an_image(before) == prompts.full_ids(as_turns(chat))
            forms["full, system" if exercise.system else "full"] += 1
    assert min(forms.values()) > SAMPLES / 2
    assert len(forms) == 4


def test_labels_are_answers_token_by_token(tokenizer, samples):
    for _, _, sample, question in every(samples):
        labels = labels_of(sample, question)
        if CATEGORIES[sample.kinds[question.segment]] == "none":
            assert labels == tokenizer.encode("A", add_special_tokens=False)  # a describe turn's last row
            continue
        own = question.ids[-question.own :]
        assert labels[-1] == EOS == own[-1]
        assert labels == own[-len(labels) :]
        assert EOS not in labels[:-1]
        assert len(labels) < len(own) or CATEGORIES[sample.kinds[question.segment]] == "description"


def test_describe_turns_are_answered_by_the_caption(tokenizer, samples):
    prompts = Counter()
    for exercise, scenes, sample, question in every(samples, "single", "video"):
        if CATEGORIES[sample.kinds[question.segment]] != "description":
            continue
        text = tokenizer.decode(question.ids).rpartition("<image>")[2]
        prompt, _, caption = text.partition("<|assistant|>")
        assert prompt in (DESCRIBE_PROMPTS if exercise.form == "single" else (DESCRIBE_VIDEO,))
        caption = caption.removesuffix("</s>")
        assert caption == scenes[0].caption if exercise.form == "single" else caption.startswith(scenes[0].caption)
        prompts[prompt] += 1
    assert len(prompts) == len(DESCRIBE_PROMPTS) + 1


def test_the_describe_turn_is_asked_again_and_answered(tokenizer, samples):
    again = [q for _, _, s, q in every(samples, "single") if CATEGORIES[s.kinds[q.segment]] == "describe"]
    assert again
    for question in again:
        assert tokenizer.decode(question.ids).count("<|assistant|>") >= 1


def test_pictures_see_each_other_only_in_a_full_pass(samples):
    for exercise, packed in samples.items():
        for _, sample in packed:
            images = range(1, 1 + exercise.images)
            seen = {(a, b) for a in images for b in images if a != b and sample.visible[a, b]}
            assert seen == ({(a, b) for a in images for b in images if b < a} if exercise.is_joint else set())


def test_padding_is_seen_by_nobody_and_teaches_nothing(samples):
    padded = 0
    for packed in samples.values():
        for _, sample in packed:
            padding = sample.segments[-len(sample.ids) :] == MAX_SEGMENTS - 1
            padded += padding.sum()
            assert (sample.ids[padding] == PAD).all()
            assert (sample.labels[padding] == IGNORE).all()
            assert not sample.visible[:-1, -1].any()
            assert sample.visible[-1].nonzero()[0].tolist() == [MAX_SEGMENTS - 1]
    assert padded > 0


def test_where_pictures_stood_is_marked_in_some_follow_ups(tokenizer, samples):
    texts = [tokenizer.decode(q.ids).rpartition("<|user|>")[2] for _, _, _, q in every(samples, "joined")]
    assert any("[image 1]" in text and "[image 2]" in text for text in texts)
    assert any("[image 2]" in text and "[image 1]" not in text for text in texts)
    assert sum("[image" in text for text in texts) < 0.4 * len(texts)


def test_what_names_no_picture_is_asked_of_all_of_them(tokenizer, samples):
    """Whether any shows it, how many they show together, and what each one shows."""
    asked = Counter()
    for _, scenes, sample, question in every(samples, "joined", "joint"):
        kind = CATEGORIES[sample.kinds[question.segment]]
        turn = tokenizer.decode(question.ids[-question.own :]).rpartition("<|user|>")[2].lower()
        text, _, answer = turn.removesuffix("</s>").rpartition("<|assistant|>")
        found = re.search(
            r"(how many|is there|do you see|can you see) (?:an? )?([a-z ]+?)(?: are there| do you see| there are)?\?$",
            text,
        )
        if kind == "describe" and re.search("(the|both) images", text):
            first, second = scenes
            assert answer == f"first image: {first.caption} second image: {second.caption}".lower()
        elif kind == "total" and found and not re.search(r"imag|pictur|total|together", found[2]):
            counts = sum(len(those(scene, found[2])) for scene in scenes)
            assert answer == (str(counts) if found[1] == "how many" else "yes" if counts else "no"), turn
        else:
            continue
        asked[kind, found[1] if found else "", answer if answer in ("yes", "no") else ""] += 1
    assert len(asked) >= 6, asked


def test_context_drop_leaves_each_object_or_nothing_at_all(samples):
    """Nothing only where a describe turn's own tokens can tell: on 10 to 15% of what follows a context."""
    shares = Counter()
    for exercise, scenes, sample, question in every(samples):
        kept = sample.image_kept[question.segment].reshape(len(scenes), IMAGE_TOKENS)
        follows = 0 < question.ids.index(ASSISTANT) < len(said_before_answer(question)) - 1
        if not kept.any():
            assert follows
        else:
            assert all(near(tokens, o) for scene, tokens in zip(scenes, kept, strict=True) for o in scene.objects)
        if follows and exercise.form in ("single", "joined"):
            shares["none" if not kept.any() else "whole" if kept.all() else "part"] += 1
    assert 0.06 < shares["none"] / shares.total() < 0.16
    assert shares["part"] > 0.4 * shares.total()
    assert shares["whole"] > 0.2 * shares.total()


def test_context_drop_keeps_each_object_and_any_share_of_the_rest():
    counts = []
    for seed in range(400):
        scene, rng = sample_scene(seed, world=WIDE if seed % 2 else NARROW), random.Random(seed)
        kept = context_drop(scene, rng, draw_rate(rng))
        assert all(near(kept, o) for o in scene.objects)
        counts.append(int(kept.sum()))
    assert min(counts) <= 3
    assert counts.count(IMAGE_TOKENS) > 30
    assert 12 < np.median(counts) < 45  # log-uniform: half of the rates are below 9%


def near(kept, o) -> bool:
    """Whether a kept token's patch shows the object, or lies beside its centre."""
    rows, columns = kept.reshape(GRID, GRID).nonzero()
    reach = max(1.5, o.radius / PATCH_SIZE + 1)
    return bool((np.maximum(abs(rows + 0.5 - o.y / PATCH_SIZE), abs(columns + 0.5 - o.x / PATCH_SIZE)) <= reach).any())


def test_patch_labels_name_what_each_patch_shows():
    touched = []
    for seed in range(100):
        scene = sample_scene(seed, world=WIDE if seed % 2 else NARROW)
        kind, color, size, centre, region, fill = patch_labels(scene).reshape(PATCH_ROWS, GRID, GRID)
        assert centre.sum() == len(scene.objects)
        shown = np.zeros((GRID, GRID), dtype=bool)
        for o, mask in zip(scene.objects, masks(scene), strict=True):
            at = (int(o.y // PATCH_SIZE), int(o.x // PATCH_SIZE))
            assert centre[at] == 1
            names = (WIDE.kinds[kind[at] - 1], WIDE.colors[color[at] - 1], SIZES[size[at] - 1])
            assert names == (o.kind, o.color, o.size)
            assert (region[at], fill[at]) == (1 + o.region, 1 + (o.line > 0))
            share = mask.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean((1, 3))
            assert (kind[share > 0.5] > 0).all()
            shown |= share > 0
        touched.append(shown[kind > 0].mean())
    assert np.mean(touched) > 0.65  # labels reach a little over the edges, and fill outlines


def test_chained_questions_go_on_where_the_last_answer_ended(samples):
    chains = 0
    for packed in samples.values():
        for _, sample in packed:
            asked = [q for q in answered(sample) if sample.kinds[q.segment] > CATEGORIES.index("description")]
            for before, after in pairwise(asked):
                if sample.visible[after.segment, before.segment]:
                    chains += 1
                    first = after.rows[-after.own]
                    assert sample.positions[first] == sample.positions[before.rows[-1]] + 1
                    assert sample.ids[first - (len(sample.segments) - len(sample.ids))] == USER
    assert chains > SAMPLES

"""A packed sample is many ordinary conversations: each question sees one, whole, at the positions it would have."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from transformers import LlavaConfig

from lookonce_scenes.model import build_config
from lookonce_scenes.packing import (
    IGNORE,
    MAX_SEGMENTS,
    SYSTEM_PROMPTS,
    Exercise,
    Packer,
    context_drop,
    image_prefix,
    patch_labels,
)
from lookonce_scenes.questions import DESCRIBE_PROMPTS
from lookonce_scenes.tokenizer import ASSISTANT, EOS, GRID, IMAGE, IMAGE_TOKENS, PAD, PATCH_SIZE
from lookonce_scenes.train import TEXT_TOKENS
from lookonce_scenes.world import COLORS, KINDS, SIZES, masks, sample_scene
from lookonce_server.engines.conversation import Conversation, Turn
from lookonce_server.engines.prompts import PromptRenderer

from .oracle import answer_to
from .packed import DESCRIBE_TURN, DESCRIPTION, answer_of, messages, questions, seen

SAMPLES = 250
SYSTEM = SYSTEM_PROMPTS[1]


@pytest.fixture(scope="module")
def prefix(tokenizer):
    return image_prefix(tokenizer, SYSTEM)


@pytest.fixture(scope="module")
def samples(tokenizer, prefix):
    """Scenes with their samples, half of the questions under context-drop."""
    packer = Packer(tokenizer, TEXT_TOKENS)
    return [packer.pack(seed, Exercise(4, drop_rate=0.5), len(prefix)) for seed in range(SAMPLES)]


@pytest.fixture(scope="module")
def prompts(processor, tokenizer):
    config = LlavaConfig.from_dict(build_config(len(tokenizer)).to_dict())
    return PromptRenderer(processor, config)


def as_turns(chat) -> Conversation:
    return Conversation(tuple(Turn(m["role"], tuple(part.get("text", 0) for part in m["content"])) for m in chat))


def test_the_prefix_is_the_templates(processor, prefix):
    chat = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "image"}]},
    ]
    text = processor.apply_chat_template(chat, tokenize=False)
    assert processor.tokenizer.decode(prefix) == text.replace("<image>", "<image>" * IMAGE_TOKENS)
    assert prefix[-IMAGE_TOKENS:] == [IMAGE] * IMAGE_TOKENS


def test_the_same_seed_gives_the_same_sample(tokenizer, samples, prefix):
    scene, sample = Packer(tokenizer, TEXT_TOKENS).pack(3, Exercise(4, drop_rate=0.5), len(prefix))
    assert scene == samples[3][0]
    for first, second in zip(sample, samples[3][1], strict=True):
        np.testing.assert_array_equal(first, second)


def test_shapes_are_the_same_for_every_sample(samples):
    for _, sample in samples:
        assert sample.ids.shape == sample.positions.shape == sample.segments.shape == sample.labels.shape
        assert sample.ids.shape == (TEXT_TOKENS,)
        assert sample.visible.shape == (MAX_SEGMENTS, MAX_SEGMENTS)
        assert sample.image_kept.shape == (MAX_SEGMENTS, IMAGE_TOKENS)
        assert (np.diff(sample.segments) >= 0).all()


def test_a_question_sees_one_conversation_without_gaps(processor, prefix, samples):
    for _, sample in samples:
        for question in questions(sample):
            positions = sample.positions[question.rows]
            assert positions.tolist() == list(range(len(prefix), len(prefix) + len(positions)))
            chat = messages(processor.tokenizer, prefix, sample.ids[question.rows].tolist())
            ids = processor.tokenizer.encode(
                processor.apply_chat_template(chat, tokenize=False), add_special_tokens=False
            )
            collapsed = prefix[: prefix.index(IMAGE) + 1] + sample.ids[question.rows].tolist()
            assert ids == collapsed


def test_a_question_sees_no_other_one_unless_chained(samples):
    chains = Counter()
    for _, sample in samples:
        asked = questions(sample)
        forms = {q.form for q in asked}
        assert len(forms) == 1
        chained = any(q.chained for q in asked)
        for i, question in enumerate(asked):
            base = {
                "direct": {0},
                "description hidden": {0, DESCRIBE_TURN},
                "description shown": {0, DESCRIBE_TURN, DESCRIPTION},
            }[question.form]
            assert question.sees == base | ({q.segment for q in asked[:i]} if chained else set())
        chains[chained] += 1
    assert chains[True] > 0.15 * SAMPLES
    assert chains[False] > 0.5 * SAMPLES


def test_what_follows_a_hidden_description_is_what_the_server_asks_of_a_context(prompts, prefix, tokenizer, samples):
    compared = 0
    for _, sample in samples:
        turn = len(seen(sample, DESCRIBE_TURN).own)
        for question in questions(sample):
            if question.form != "description hidden":
                continue
            chat = messages(tokenizer, prefix, sample.ids[question.rows].tolist())
            said = [m["content"][-1]["text"] for m in chat]
            assert said[1] in DESCRIBE_PROMPTS
            assert said[2] == ""
            asked = as_turns(chat[3:-1])  # without system, describe turn, and the answer to come
            after = question.rows[turn:]
            end = len(after) - len(answer_of(sample, question.own))
            assert sample.ids[after][:end].tolist() == prompts.continuation(said[1], asked)[0].tolist()
            compared += 1
    assert compared > SAMPLES


def test_a_direct_question_is_what_the_server_asks_in_a_full_pass(prompts, prefix, tokenizer, samples):
    compared = 0
    for _, sample in samples:
        for question in questions(sample):
            if question.form != "direct":
                continue
            ids = sample.ids[question.rows].tolist()
            end = len(ids) - len(answer_of(sample, question.own))
            whole = prompts.full_ids(as_turns(messages(tokenizer, prefix, ids)[:-1]))
            assert prefix[: prefix.index(IMAGE) + 1] + ids[:end] == whole
            compared += 1
    assert compared > SAMPLES


def test_labels_are_the_right_answer_token_by_token(tokenizer, samples):
    for scene, sample in samples:
        for question in questions(sample):
            own = question.own
            labelled = own[sample.labels[own] != IGNORE]
            assert sample.labels[labelled].tolist() == sample.ids[labelled + 1].tolist()
            assert labelled.tolist() == list(range(labelled[0], own[-1]))
            assert sample.ids[labelled[0]] == ASSISTANT
            *answer, end = sample.labels[labelled].tolist()
            assert end == EOS
            asked = tokenizer.decode(sample.ids[own[0] : labelled[0]], skip_special_tokens=True)
            assert tokenizer.decode(answer) == answer_to(scene, asked), asked


def test_the_describe_turn_is_answered_by_the_description(tokenizer, prefix, samples):
    for scene, sample in samples:
        turn, description = seen(sample, DESCRIBE_TURN), seen(sample, DESCRIPTION)
        assert turn.sees == {0}
        assert description.sees == {0, DESCRIBE_TURN}
        positions = sample.positions[description.rows]
        assert positions.tolist() == list(range(len(prefix), len(prefix) + len(positions)))
        assert answer_of(sample, turn.own[:-1]) == []
        labels = answer_of(sample, description.rows)
        assert tokenizer.decode(labels) == f"{scene.caption}</s>"
        assert labels == sample.ids[description.own].tolist()


def test_padding_is_seen_by_nobody_and_teaches_nothing(samples):
    padded = 0
    for _, sample in samples:
        padding = sample.segments == MAX_SEGMENTS - 1
        padded += padding.sum()
        assert (sample.ids[padding] == PAD).all()
        assert (sample.labels[padding] == IGNORE).all()
        assert not sample.visible[:-1, -1].any()
        assert sample.visible[-1].nonzero()[0].tolist() == [MAX_SEGMENTS - 1]
    assert padded > 0


def test_most_questions_do_not_see_the_description(samples):
    tokens = Counter()
    for _, sample in samples:
        for question in questions(sample):
            tokens[question.form] += len(question.own)
    assert all(tokens[form] > 0.1 * tokens.total() for form in ("direct", "description hidden", "description shown"))
    assert tokens["description shown"] <= 0.5 * tokens.total()


def test_some_text_is_typed_carelessly_and_most_is_not(tokenizer, samples):
    lower = bare = total = 0
    for _, sample in samples:
        for question in questions(sample):
            end = question.own[0] + list(sample.ids[question.own]).index(ASSISTANT)
            text = tokenizer.decode(sample.ids[question.own[0] : end], skip_special_tokens=True)
            lower, bare, total = lower + text[0].islower(), bare + (text[-1] not in "?."), total + 1
    assert 0.05 < lower / total < 0.15
    assert 0.03 < bare / total < 0.12


def test_only_questions_lose_image_tokens_and_never_a_whole_object(samples):
    dropped = total = 0
    for scene, sample in samples:
        asked = [q.segment for q in questions(sample)]
        others = np.setdiff1d(np.arange(MAX_SEGMENTS), asked)
        assert sample.image_kept[others].all()
        for segment in asked:
            kept = sample.image_kept[segment]
            assert all(near(kept, o) for o in scene.objects)
            dropped, total = dropped + (not kept.all()), total + 1
    assert 0.4 < dropped / total < 0.6


def test_context_drop_keeps_each_object_and_any_share_of_the_rest():
    kept_counts = []
    for seed in range(400):
        scene = sample_scene(seed)
        kept = context_drop(scene, random.Random(seed))
        assert all(near(kept, o) for o in scene.objects)
        kept_counts.append(int(kept.sum()))
    assert min(kept_counts) <= 3
    assert max(kept_counts) >= 180
    assert 15 < np.median(kept_counts) < 40  # log-uniform: half of the rates are below 6%


def near(kept, o) -> bool:
    """Whether a kept token's patch is the one of the object's centre, or beside it."""
    rows, columns = (kept.reshape(GRID, GRID)).nonzero()
    return bool((np.maximum(abs(rows - int(o.y // PATCH_SIZE)), abs(columns - int(o.x // PATCH_SIZE))) <= 1).any())


def test_patch_labels_name_what_each_patch_shows():
    touched = []
    for seed in range(100):
        scene = sample_scene(seed)
        kind, color, size, centre, region = patch_labels(scene).reshape(5, GRID, GRID)
        assert centre.sum() == len(scene.objects)
        shown = np.zeros((GRID, GRID), dtype=bool)
        for o, mask in zip(scene.objects, masks(scene), strict=True):
            at = (int(o.y // PATCH_SIZE), int(o.x // PATCH_SIZE))
            assert centre[at] == 1
            assert (KINDS[kind[at] - 1], list(COLORS)[color[at] - 1], SIZES[size[at] - 1]) == (o.kind, o.color, o.size)
            assert region[at] == 1 + o.region
            share = mask.reshape(GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean((1, 3))
            assert (kind[share > 0.5] > 0).all()
            shown |= share > 0
        touched.append(shown[kind > 0].mean())
    assert np.mean(touched) > 0.7  # labels reach a little over the edges


def test_chained_positions_go_on_where_the_last_answer_ended(samples):
    for _, sample in samples:
        asked = questions(sample)
        if len(asked) > 1 and asked[1].chained:
            for before, after in pairwise(asked):
                assert sample.positions[after.own[0]] == sample.positions[before.own[-1]] + 1

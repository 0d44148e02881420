"""The oracle, and the methods to answer."""

import math
from collections import Counter

import pytest
import torch

from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import describe, kept_tokens
from lookonce_evaluation.methods import SEEDS, SMALL, CaptionOnly, Context, ImageOnly, ImageRun, methods, oracle
from lookonce_evaluation.tasks.retention import RETENTIONS
from lookonce_pruning import kept_count, rotate_keys
from lookonce_scenes.tokenizer import GRID, PATCH_SIZE
from lookonce_scenes.world import sample_scene


def test_the_oracle_keeps_a_token_on_every_object():
    for scene in map(sample_scene, range(40)):
        centres = {int(o.y // PATCH_SIZE) * GRID + int(o.x // PATCH_SIZE) for o in scene.objects}
        for keep in (len(scene.objects), 10, 98, GRID * GRID):
            kept = oracle(scene, (GRID, GRID), keep)
            assert kept.shape == (1, keep)
            assert (kept.diff() > 0).all()
            assert centres <= set(kept[0].tolist()), scene.seed


def test_the_oracle_serves_objects_in_turn():
    scene = sample_scene(3, min_objects=3, max_objects=3)
    kept = oracle(scene, (GRID, GRID), 9)[0]
    nearest = [
        min(
            range(3),
            key=lambda i: math.dist(
                (scene.objects[i].y, scene.objects[i].x),
                ((int(k) // GRID + 0.5) * PATCH_SIZE, (int(k) % GRID + 0.5) * PATCH_SIZE),
            ),
        )
        for k in kept
    ]
    assert [nearest.count(i) for i in range(3)] == [3, 3, 3]


def test_the_oracle_knows_other_grids():
    scene = sample_scene(3, min_objects=1, max_objects=1)
    (one,) = scene.objects
    assert oracle(scene, (4, 7), 1).tolist() == [[int(one.y // 28) * 7 + int(one.x // 16)]]


@pytest.fixture(scope="module")
def run(model):
    with torch.inference_mode():
        yield ImageRun(model, held_out(1, 600_000_000)[0])


def test_one_describe_pass_gives_every_windows_scores(model, run):
    for window, rows in ((range(2, 4), "generated"), (range(1, 8), "query"), (range(8), "both")):
        alone = describe(model, run.case, window).scores(rows)
        shared = run.scores(window, rows)
        torch.testing.assert_close(shared.values, alone.values)
        assert (shared.layers, shared.grid, shared.num_layers) == (alone.layers, alone.grid, alone.num_layers)


def test_a_context_is_what_the_server_would_keep(model, run, settings):
    window = model.window(settings.window)
    method = Context("default", 0.05, settings.selection, (window.start, window.stop), settings.rows)
    described = describe(model, run.case, window)
    cache = method.prepare(run)
    torch.testing.assert_close(cache.keys, described.context(kept_tokens(described, 0.05, settings)).keys)
    assert cache.next_position == cache.tokens == kept_count(0.05, 196) + 7


def test_the_image_only_has_no_text_and_the_kept_tokens_where_they_were(model, run):
    """As in the context with text, each kept token is as far from the question as in the prompt."""
    whole = Context("all", 0.05, "attention", (2, 4), "generated").prepare(run)
    alone = ImageOnly("image only", 0.05, "attention", (2, 4), "generated").prepare(run)
    assert alone.tokens == alone.next_position == 10
    torch.testing.assert_close(alone.values, whole.values[:, :, 2:12])  # two tokens before the image, five after
    moved = rotate_keys(whole.keys[:, :, 2:12], model.runner.rope, 10 - 17)
    torch.testing.assert_close(alone.keys, moved, atol=1e-4, rtol=1e-4)


def test_the_caption_is_an_earlier_turn_of_text(model, run):
    """What is in the cache and each prompt together are the conversation, and no pixel is in it."""
    cache = CaptionOnly().prepare(run)
    tokenizer = model.prompts.tokenizer
    for prompt, question in zip(cache.prompts, run.case.questions, strict=True):
        said = tokenizer.decode(prompt)
        assert question.text in said
    ids = tokenizer(run.described.text, add_special_tokens=False)["input_ids"]
    assert len(ids) < cache.tokens < len(ids) + 25
    assert model.prompts.image_id not in [token for prompt in cache.prompts for token in prompt]


def test_draws_differ_by_image_and_seed(run):
    first, second = (Context("random", 0.1, "random", (2, 4), "generated", seed) for seed in (0, 1))
    other = ImageRun(run.model, run.case._replace(name="other"))
    other.__dict__["described"] = run.described
    assert first.kept(run).tolist() == first.kept(run).tolist()
    assert first.kept(run).tolist() != second.kept(run).tolist()
    assert first.kept(run).tolist() != first.kept(other).tolist()


def test_the_defaults_are_the_papers_table():
    made = methods(RETENTIONS, "coverage", range(2, 4), "generated", 8)
    assert {method.retention for method in made if method.name == "coverage"} == {0.5, 0.2, 0.1, 0.05, 0.02}
    assert {method.retention for method in made if method.name == "image only"} == set(SMALL) == {0.05, 0.02}
    seeds = Counter(method.retention for method in made if method.name == "random")
    assert seeds == {0.5: 1, 0.2: 1, 0.1: 1, 0.05: len(SEEDS), 0.02: len(SEEDS)}
    assert len(set(made)) == len(made)
    assert "attention, generated rows" in {
        method.name for method in methods((0.05,), "attention", range(2, 4), "query", 8)
    }

"""Joined contexts, and tokens computed anew in them, against plain transformers and against each other."""

from types import SimpleNamespace

import pytest
import torch

from lookonce_evaluation.album_methods import JoinedContexts, album_methods
from lookonce_evaluation.data.image_set import Alone, ImageSet
from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.joins import TEXT, ImagesRun
from lookonce_evaluation.metrics.groups import group_table, percent_table, record, rows_of
from lookonce_evaluation.model import EvalModel
from lookonce_scenes.questions import Question

from ...support.join_reference import joined_logits

QUESTIONS = [
    Question("one color", "What color is the star in the second image?", "red"),
    Question("same", "Do both images show a star?", "No"),
]


@pytest.fixture(scope="module")
def run(model, settings):
    images = [case.image for case in held_out(3, 600_000_100)]
    alone = [Alone(1, "What color is the star in the image?"), None]
    with torch.inference_mode():
        yield ImagesRun(model, ImageSet("a", images, QUESTIONS, alone), settings)


def kept(run, share):
    return JoinedContexts("joined", share, "coverage").kept(run)


def logits(run, cache, question=0):
    ids = [*cache.prompts[question], *run.model.answer_ids("red")[:-1]]
    return run.model.ask(cache, ids).logits[0, len(cache.prompts[question]) - 1 :]


def reference(run, cells, **options):
    loaded = SimpleNamespace(model=run.model.runner.model, processor=run.model.prompts._processor)
    contexts = [
        SimpleNamespace(
            identity=SimpleNamespace(describe_prompt=run.model.describe_prompt),
            kept_indices=one,
            image_tokens=196,
            stored_tokens=one.shape[1] + run.own_text,
        )
        for one in cells
    ]
    answer = run.model.answer_ids("red")[:-1]
    return joined_logits(loaded, run.images.images, contexts, QUESTIONS[0].text, answer, **options)


def test_joined_contexts_are_the_masked_pass_of_the_whole_prompt(run):
    """With everything kept and with little, as wide as the images were or packed."""
    for share, packed in ((1.0, False), (0.05, False), (0.05, True)):
        cells = kept(run, share)
        found = logits(run, run.join(cells, packed=packed).cache)
        torch.testing.assert_close(found, reference(run, cells, packed=packed), atol=2e-4, rtol=1e-4)


def test_the_table_tells_where_tokens_stand(run):
    """Computed anew there, behind all that it had seen, text is as it was."""
    joined = run.join(kept(run, 1.0))
    table, cache = joined.table, joined.cache
    assert len(table.ids) == cache.tokens == cache.next_position == int(table.positions[-1]) + 1
    assert (table.positions.diff() > 0).all()
    # The first context has seen all there is before it.
    chosen = table.is_text & (torch.arange(cache.tokens) < joined.first_later)
    again = run.recompute(joined, chosen).cache
    for found, expected in ((again.keys, cache.keys), (again.values, cache.values)):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    images = [int(i) for i in table.images.unique_consecutive()]
    assert images == [TEXT, 0, TEXT, 1, TEXT, 2, TEXT]


def test_all_computed_anew_is_the_pass_that_saw_all(run):
    everything = kept(run, 1.0)
    joined = run.join(everything)
    chosen = torch.arange(joined.cache.tokens) >= joined.first_later
    anew, together = run.recompute(joined, chosen).cache, run.together(everything).cache
    for question in (0, 1):
        torch.testing.assert_close(logits(run, anew, question), logits(run, together, question), atol=2e-4, rtol=1e-4)
    assert (logits(run, joined.cache) - logits(run, together)).abs().max() > 0.01  # which the others had not seen


def test_text_in_place_is_run_where_it_stands(run):
    """Step by step: the text up to an image, then its kept tokens, and so on."""
    joined = run.join(kept(run, 0.05))
    table, cache = joined.table, joined.cache
    cut = joined.first_later
    stepwise = cache._replace(keys=cache.keys[:, :, :cut], values=cache.values[:, :, :cut])
    at = cut
    while at < cache.tokens:
        end = at + int((table.is_text[at:] != table.is_text[at]).int().argmax())
        end = cache.tokens if end == at else end
        if table.is_text[at]:
            start = stepwise._replace(next_position=int(table.positions[at]))
            layers = run.model.ask(start, table.ids[at:end].tolist()).cache.layers
            stepwise = stepwise._replace(
                keys=torch.stack([layer.keys[0] for layer in layers]),
                values=torch.stack([layer.values[0] for layer in layers]),
            )
        else:
            stepwise = stepwise._replace(
                keys=torch.cat((stepwise.keys, cache.keys[:, :, at:end]), 2),
                values=torch.cat((stepwise.values, cache.values[:, :, at:end]), 2),
            )
        at = end
    found = JoinedContexts("", 0.05, "coverage", "text in place").prepare(run)[0]
    torch.testing.assert_close(found.cache.keys, stepwise.keys, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.cache.values, stepwise.values, atol=1e-4, rtol=1e-4)
    assert found.computed == 2 * (2 + run.own_text)  # two seams, and the text of two contexts


def test_one_turn_is_the_prompt_with_all_images_before_its_text(run):
    """With everything kept, and images that saw nothing but the prefix: the first one is as in the full pass."""
    joined = run.one_turn(kept(run, 1.0))
    texts = joined.table.ids[joined.table.is_text].tolist()
    assert texts == [*run.turn.prefix, *run.turn.ids[len(run.turn.prefix) + 1 :]]
    assert joined.cache.next_position == len(texts) + 3 * 196
    whole = run.model.prefix(*run.images.images).keys
    torch.testing.assert_close(joined.cache.keys[:, :, :198], whole[:, :, :198], atol=1e-4, rtol=1e-4)


def test_what_is_computed_anew_is_counted_and_chosen_by_weight(run):
    joined = run.join(kept(run, 0.05))
    for repair, count in (("10% anew", 3), ("text and 10% anew", 3 + 14), ("all anew", 20 + 14)):
        (asked,) = JoinedContexts("", 0.05, "coverage", repair).prepare(run)
        changed = (asked.cache.values != joined.cache.values).any(-1).any(1).any(0)
        assert asked.computed == int(changed.sum()) == count
        if repair == "10% anew":
            later = torch.arange(joined.cache.tokens) >= joined.first_later
            weights = run.weights(joined).masked_fill(~later, 0)
            assert set(changed.nonzero().flatten().tolist()) == set(weights.topk(3).indices.tolist())
    at = joined.first_later + 2 + 4  # behind the seam, the fifth token kept of the second image
    drawn = run.described[1].scores(run.settings.rows).values.mean(0)[kept(run, 0.05)[1][0, 4]]
    norm = joined.cache.values[:, :, at].norm(dim=-1).mean()
    assert float(run.weights(joined)[at]) == pytest.approx(float(drawn * norm), rel=1e-4)


def test_every_method_answers_every_question_it_is_asked(run, model, settings):
    methods = [method for method in album_methods((0.05,), "coverage") if method.retention in (None, 0.05)]
    records = [record(model, run.images, methods, settings)]
    rows = rows_of(methods, records, {"one image": [[0]], "comparing": [[1]]})
    names = [row.name for row in rows]
    assert names[:4] == ["full pass", "full pass, that image alone", "no image", "joined"]
    assert records[0][1]["right"][1] is None
    assert "comparing" not in rows[1].groups
    stored = {row.name: row.stored for row in rows}
    assert stored["joined"] - stored["joined, text in place"] == 3 * run.own_text * 4096
    for text in (group_table(rows, ["one image", "comparing"]), percent_table(rows, ["comparing"])):
        assert len({line.count("|") for line in text.splitlines()}) == 1


def test_a_choice_by_layer_and_other_positions_are_refused(run, settings, qwen2_vl):
    by_layer = JoinedContexts("joined", 0.05, "attention-per-layer")
    with pytest.raises(EvaluationError, match="ranks in every layer"):
        by_layer.kept(run)
    with pytest.raises(EvaluationError, match="one choice for all layers"):
        by_layer.kept(ImagesRun(run.model, run.images, settings.model_copy(update={"window": "all"})))
    other = EvalModel.load(qwen2_vl, settings)
    with pytest.raises(EvaluationError, match="three components"):
        ImagesRun(other, run.images, settings)

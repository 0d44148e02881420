"""What training computes on a packed batch is what an ordinary model computes on each conversation alone."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from lookonce_scenes import training_attention
from lookonce_scenes.model import build_model, normalise
from lookonce_scenes.objective import Batch, Objective
from lookonce_scenes.optimizer import Optimizers
from lookonce_scenes.packing import CATEGORIES, IGNORE, Sample
from lookonce_scenes.tokenizer import IMAGE, IMAGE_TOKENS
from lookonce_scenes.train import FIRST_TRAINING_SEED, MIXED, Stage, Steps
from lookonce_scenes.training_attention import use_training_attention

from .packed import Seen, answered, joined_blocks

PLAIN = Stage("plain", 100, 4, 1e-3)
FORMS = [form for form in dict.fromkeys(MIXED) if form[1] <= 4]


def stage_of(form: str, images: int, drop_rate: float = 0.8) -> Stage:
    """A stage of two samples a step, all of one form."""
    return dataclasses.replace(PLAIN, batch=2 * images, drop_rate=drop_rate, forms=((form, images),))


def batch_of(stage: Stage, step: int, seed: int = FIRST_TRAINING_SEED) -> Batch:
    return Steps(stage, seed, 0, 1)[step]


def sample_of(batch: Batch, index: int) -> Sample:
    return Sample(*(tensor[index].numpy() for tensor in batch[2:]))


@pytest.fixture(scope="module")
def reference(tokenizer) -> LlavaForConditionalGeneration:
    """A fresh model whose attention is sharp enough for a wrong mask or position to show."""
    torch.manual_seed(3)
    model = build_model(len(tokenizer)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 20
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight *= 3
    return model


@pytest.fixture(scope="module")
def objective(tokenizer, reference) -> Objective:
    model = build_model(len(tokenizer))
    model.load_state_dict(reference.state_dict())
    use_training_attention(model)
    return Objective(model, tokenizer)


@pytest.fixture
def exact(monkeypatch) -> None:
    """The training's attention in float32, so that only a wrong mask or position can tell it from the ordinary one."""

    def attend(query, key, value, mask, scaling):
        scores = query * scaling @ key.transpose(-1, -2)
        return torch.softmax(scores if mask is None else scores + mask, -1) @ value

    monkeypatch.setattr(training_attention, "_attend", attend)


def mixed() -> torch.autocast:
    """The precision that training runs in."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


@torch.inference_mode()
def packed_logits(objective: Objective, batch: Batch) -> torch.Tensor:
    projected, *_ = objective.see(batch)
    return objective.model.lm_head(objective._language(batch, projected))


@torch.inference_mode()
def alone(
    reference: LlavaForConditionalGeneration, question: Seen, pixels: torch.Tensor, *, joined: bool
) -> torch.Tensor:
    """Logits of the segment's own rows, where the conversation is all there is: `[own, vocabulary]`."""
    count = len(question.ids)
    sees = joined_blocks(question.ids) if joined else np.tril(np.ones((count, count), dtype=np.bool_))
    sees[-question.own :, ~question.kept] = False
    mask = torch.zeros(count, count).masked_fill_(~torch.from_numpy(sees), torch.finfo(torch.float32).min)
    shown = question.ids.count(IMAGE) // IMAGE_TOKENS
    logits = reference(
        input_ids=torch.tensor([question.ids]),
        pixel_values=normalise(pixels[:shown]),
        attention_mask=mask[None, None],
        position_ids=torch.arange(count)[None],
    ).logits[0]
    return logits[-question.own :]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("form", "images"), FORMS)
def test_a_packed_question_is_answered_as_if_asked_alone(objective, reference, form, images):
    """By the ordinary model and a mask told from the tokens; dropped image tokens are not seen by the question."""
    compared = {True: 0, False: 0}
    for step in (0, 7):  # with a system prompt, and without
        batch = batch_of(stage_of(form, images), step)
        packed = packed_logits(objective, batch)
        sample = sample_of(batch, 0)
        before = len(sample.segments) - len(sample.ids)
        questions = answered(sample)
        for question in questions[:: max(1, len(questions) // 5)]:
            if not _is_plain(sample, question):
                continue
            positions = sample.positions[question.rows].tolist()
            assert positions == list(range(len(positions)))
            expected = alone(reference, question, batch.pixels[0], joined=form == "joined")
            rows = question.rows[-question.own :] - before
            torch.testing.assert_close(packed[0, rows], expected, atol=2e-3, rtol=2e-3)
            compared[question.is_whole] += 1
    assert sum(compared.values()) >= 5


def _is_plain(sample: Sample, question: Seen) -> bool:
    """Whether no earlier answer that it sees was given from other image tokens, and it sees the first picture."""
    before = sample.visible[question.segment].nonzero()[0]
    earlier = [s for s in before if s != question.segment and sample.kinds[s] > CATEGORIES.index("description")]
    sees_first = 1 in before  # a later picture's describe turn stands where no text begins
    return sees_first and (not earlier or bool(sample.image_kept[[*earlier, question.segment]].all()))


@pytest.mark.usefixtures("exact")
def test_every_form_is_compared_with_dropped_tokens_too(objective, reference):
    """Questions on their own, from part of the image tokens, and from none."""
    found = set()
    for step in range(6):
        batch = batch_of(stage_of("joined", 2, 1.0), step)
        packed, sample = packed_logits(objective, batch), sample_of(batch, 0)
        before = len(sample.segments) - len(sample.ids)
        for question in answered(sample):
            kept = question.kept[[i == IMAGE for i in question.ids]].mean()
            form = "none" if kept == 0 else "part" if kept < 1 else "whole"
            if form in found or not _is_plain(sample, question):
                continue
            expected = alone(reference, question, batch.pixels[0], joined=True)
            torch.testing.assert_close(
                packed[0, question.rows[-question.own :] - before], expected, atol=2e-3, rtol=2e-3
            )
            found.add(form)
    assert found >= {"none", "part"}


def test_the_attention_that_trains_is_the_ordinary_one_in_bfloat16(objective, reference):
    batch = batch_of(PLAIN, 3)
    sample = sample_of(batch, 0)
    question = answered(sample)[0]
    expected = alone(reference, question, batch.pixels[0], joined=False)
    with torch.inference_mode(), mixed():
        packed = packed_logits(objective, batch)[0].float()
    rows = question.rows[-question.own :] - (len(sample.segments) - len(sample.ids))
    assert (packed[rows].softmax(-1) - expected.softmax(-1)).abs().mean(0).max() < 0.05


@pytest.mark.usefixtures("exact")
def test_losses_are_cross_entropies_of_the_labelled_rows(objective):
    batch = batch_of(stage_of("joined", 2), 1)
    with torch.inference_mode():
        losses = objective(batch)
        labels = batch.labels != IGNORE
        logits = packed_logits(objective, batch)[labels].float()
        found = torch.nn.functional.cross_entropy(logits, batch.labels[labels], reduction="none")
    weights = batch.weights[labels]
    assert set(weights.tolist()) == {0.5, 1.0}
    assert losses.description.item() == pytest.approx(found[weights == 0.5].mean().item(), rel=1e-4)
    assert losses.answers.item() == pytest.approx(found[weights == 1.0].mean().item(), rel=1e-4)
    expected = (found * weights).sum() / weights.sum() + 0.15 * losses.patch + 0.2 * losses.alignment
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-4)


def test_answers_are_counted_whole(objective):
    """Right only to the last token: of the model's own answers all are, and one wrong token spoils one."""
    batch = batch_of(PLAIN, 2)
    with torch.inference_mode(), mixed():
        chosen = packed_logits(objective, batch).argmax(-1)
        ours = batch._replace(labels=torch.where(batch.labels == IGNORE, IGNORE, chosen))
        all_right = objective(ours)
        assert torch.equal(all_right.right, all_right.asked)
        question = answered(sample_of(batch, 0))[0]
        labelled = (batch.labels[0] != IGNORE) & (batch.segments[0, -len(batch.labels[0]) :] == question.segment)
        ours.labels[0, labelled.nonzero()[-1]] += 1
        spoiled = objective(ours)
    assert (spoiled.asked - spoiled.right).sum() == 1
    assert int(spoiled.asked.sum()) == sum(len(answered(sample_of(batch, i))) for i in range(len(batch.ids)))


@pytest.mark.parametrize("vision_only", [True, False])
def test_the_loss_goes_down(tokenizer, vision_only):
    torch.manual_seed(0)
    model = build_model(len(tokenizer))
    use_training_attention(model)
    objective = Objective(model, tokenizer)
    optimizers = Optimizers(objective, vision_only=vision_only)
    batch = batch_of(dataclasses.replace(PLAIN, batch=2), 3)
    losses = []
    for _ in range(25):
        with mixed():
            loss = (objective.see_only(batch) if vision_only else objective(batch)).total
        loss.backward()
        optimizers.step(2e-3)
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0], losses


def test_the_first_stage_leaves_the_language_layers_alone(tokenizer):
    torch.manual_seed(0)
    model = build_model(len(tokenizer))
    use_training_attention(model)
    objective = Objective(model, tokenizer)
    before = {name: weights.clone() for name, weights in objective.named_parameters()}
    optimizers = Optimizers(objective, vision_only=True)
    with mixed():
        loss = objective.see_only(batch_of(dataclasses.replace(PLAIN, batch=2), 0)).total
    loss.backward()
    optimizers.step(1e-3)
    changed = {name for name, weights in objective.named_parameters() if not torch.equal(weights, before[name])}
    assert not any("language_model.layers" in name or "lm_head" in name for name in changed)
    for part in ("vision_tower", "projector", "embed_tokens", "patch_head"):
        assert any(part in name for name in changed), part

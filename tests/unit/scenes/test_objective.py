"""What training computes on a packed batch is what an ordinary model computes on each conversation alone."""

import dataclasses

import pytest
import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

from lookonce_scenes import CHECKPOINT, training_attention
from lookonce_scenes.model import build_model, normalise
from lookonce_scenes.objective import Batch, Objective
from lookonce_scenes.optimizer import Optimizers
from lookonce_scenes.packing import IGNORE, Sample
from lookonce_scenes.train import FIRST_TRAINING_SEED, Stage, Steps
from lookonce_scenes.training_attention import use_training_attention

from .packed import DESCRIPTION, questions, seen

PLAIN = Stage("plain", 100, 4, 1e-3)
DROPPING = dataclasses.replace(PLAIN, drop_rate=1.0)


def batch_of(stage: Stage, step: int, seed: int = FIRST_TRAINING_SEED) -> Batch:
    return Steps(stage, seed, 0, 1)[step]


def sample_of(batch: Batch, index: int) -> Sample:
    return Sample(*(tensor[index].numpy() for tensor in batch[2:]))


@pytest.fixture(scope="module")
def reference() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


@pytest.fixture(scope="module")
def objective(tokenizer) -> Objective:
    model = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
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


def labelled(sample: Sample, rows) -> torch.Tensor:
    return torch.from_numpy(sample.labels[rows] != IGNORE)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("step", [0, 7])  # with a system prompt, and without
def test_a_packed_question_is_answered_as_if_asked_alone(objective, reference, step):
    batch = batch_of(PLAIN, step)
    packed, forms = packed_logits(objective, batch), set()
    for i in range(len(batch.ids)):
        sample = sample_of(batch, i)
        for segment in (seen(sample, DESCRIPTION), *questions(sample)):
            ids = torch.cat([batch.prefix, batch.ids[i, segment.rows]])[None]
            with torch.inference_mode():
                alone = reference(input_ids=ids, pixel_values=normalise(batch.pixels[i : i + 1])).logits[0]
            rows = segment.own[labelled(sample, segment.own)]
            expected = alone[len(batch.prefix) :][-len(segment.own) :][labelled(sample, segment.own)]
            torch.testing.assert_close(packed[i, rows], expected, atol=1e-3, rtol=1e-3)
            forms.add((segment.form, segment.segment != DESCRIPTION and segment.chained))
    assert len(forms) >= 3


@pytest.mark.usefixtures("exact")
def test_a_question_under_context_drop_is_answered_from_the_kept_tokens_alone(objective, reference):
    """The reference drops the hidden image tokens' keys and values from an ordinary cache."""
    batch = batch_of(DROPPING, 50)
    packed, compared, prefix = packed_logits(objective, batch), 0, len(batch.prefix)
    for i in range(len(batch.ids)):
        sample = sample_of(batch, i)
        for question in questions(sample):
            if question.chained:
                continue
            before = question.rows[: -len(question.own)]
            ids = torch.cat([batch.prefix, batch.ids[i, before]])[None]
            with torch.inference_mode():
                whole = reference(input_ids=ids, pixel_values=normalise(batch.pixels[i : i + 1]), use_cache=True)
                positions = batch.positions[i, question.own][None]
                logits = reference(
                    input_ids=batch.ids[i, question.own][None],
                    position_ids=positions,
                    past_key_values=pruned(whole.past_key_values, batch.image_kept[i, question.segment], prefix),
                ).logits[0]
            rows = labelled(sample, question.own)
            torch.testing.assert_close(packed[i, question.own][rows], logits[rows], atol=1e-3, rtol=1e-3)
            compared += 1
    assert compared > 10


def pruned(cache: DynamicCache, image_kept: torch.Tensor, prefix: int) -> DynamicCache:
    kept = torch.ones(cache.get_seq_length(), dtype=torch.bool)
    kept[prefix - len(image_kept) : prefix] = image_kept
    result = DynamicCache()
    for number, layer in enumerate(cache.layers):
        result.update(layer.keys[:, :, kept], layer.values[:, :, kept], number)
    return result


def test_the_attention_that_trains_is_the_ordinary_one_in_bfloat16(objective, reference):
    batch = batch_of(PLAIN, 3)
    question = questions(sample_of(batch, 0))[0]
    ids = torch.cat([batch.prefix, batch.ids[0, question.rows]])[None]
    with torch.inference_mode():
        alone = reference(input_ids=ids, pixel_values=normalise(batch.pixels[:1])).logits[0, -len(question.own) :]
    with mixed():
        packed = packed_logits(objective, batch)[0, question.own].float()
    assert (packed.softmax(-1) - alone.softmax(-1)).abs().mean(0).max() < 0.05


@pytest.mark.usefixtures("exact")
def test_losses_are_cross_entropies_of_the_labelled_rows(objective):
    batch = batch_of(PLAIN, 1)
    with torch.inference_mode():
        losses = objective(batch)
        labels = batch.labels != IGNORE
        found = torch.nn.functional.cross_entropy(
            packed_logits(objective, batch)[labels].float(), batch.labels[labels], reduction="none"
        )
    described = batch.segments[labels] == DESCRIPTION
    assert losses.description.item() == pytest.approx(found[described].mean().item(), rel=1e-4)
    assert losses.answers.item() == pytest.approx(found[~described].mean().item(), rel=1e-4)
    weights = torch.where(described, 0.5, 1.0)
    expected = (found * weights).sum() / weights.sum() + 0.15 * losses.patch + 0.2 * losses.alignment
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_trained_projector_points_at_the_words_of_what_patches_show(objective, tokenizer):
    torch.manual_seed(0)
    fresh = Objective(build_model(len(tokenizer)), tokenizer)
    batch = batch_of(PLAIN, 2)
    with torch.inference_mode(), mixed():
        trained, untrained = objective.see_only(batch), fresh.see_only(batch)
    assert trained.alignment < 0.5 * untrained.alignment


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

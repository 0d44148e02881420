"""What is said from a context, held to attention that is knocked out."""

import sys

import torch

from lookonce_evaluation.data.scenes import held_out
from lookonce_evaluation.describe import blind, describe, describe_again, kept_tokens, retell
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.tasks.judge.judges import RuleJudge
from lookonce_evaluation.tasks.prompts import measure, usable
from lookonce_pruning import Blocked, Knockout

CASES = held_out(2, 600_000_100)


def knocked_out(model, described, kept):
    """The description where generated tokens do not look at the image tokens that are not kept."""
    dropped = [i for i in range(len(described.prompt.image_positions)) if i not in kept[0].tolist()]
    rows = range(described.prompt.tokens, sys.maxsize)
    blocked = Blocked(rows, described.prompt.image_positions[dropped], range(model.num_layers))
    with Knockout(model.runner.model, [[blocked]]):
        (tokens,) = model.decode(model.prefill(described.prompt), 128)
    return model.text(tokens)


def test_a_description_decoded_from_a_context_is_that_without_the_other_tokens(model, settings, described):
    for case in CASES:
        seen = described(case)
        for share in (1.0, 0.05, 0.02, 0.0):
            kept = kept_tokens(seen, share, settings)
            said = retell(model, seen, kept)
            assert said == knocked_out(model, seen, kept)
            assert said == seen.text or share < 1


def test_one_that_says_nothing_is_retold_as_nothing(model, described):
    silent = described(CASES[0])._replace(output_ids=[], text="")
    assert retell(model, silent, torch.empty(1, 0, dtype=torch.int64)) == ""


def test_the_same_prompt_asked_again_of_everything_is_answered(model, settings, described):
    """The bundled model answers later turns briefly; what is asked matters, not what comes."""
    kept = kept_tokens(described(CASES[0]), 1.0, settings)
    count = describe_again(model, described(CASES[0]), kept, "How many objects are there?")
    assert count in "1234"
    assert describe_again(model, described(CASES[0]), kept[:, :1], "What color is the object?") != count


def test_blind_tokens_hold_nothing_of_the_image(model, settings, described):
    """By tokens that never saw it, two images are the same."""
    seen = [described(case) for case in CASES]
    blinded = [blind(model, each) for each in seen]

    def query(described):
        return torch.stack([described.keys, described.values])[:, :, :, described.after_image :]

    torch.testing.assert_close(query(blinded[0]), query(blinded[1]), atol=1e-4, rtol=1e-4)
    assert (query(seen[0]) - query(seen[1])).abs().max() > 0.1
    assert len({retell(model, each, kept_tokens(each, 0.0, settings)) for each in blinded}) == 1


def test_positions_in_three_components_are_kept_too(settings, qwen2_vl):
    """A tiny Qwen2-VL with random weights: each token said depends on every position."""
    qwen = EvalModel.load(qwen2_vl, settings)
    described = describe(qwen, CASES[0], qwen.window(settings.window))
    kept = kept_tokens(described, 0.05, settings)
    said = retell(qwen, described, kept)
    assert said == knocked_out(qwen, described, kept).strip() != described.text
    prompts = usable(qwen, ["Describe the image.", ""])
    assert list(measure(qwen, settings, RuleJudge(), prompts, CASES[0])["prompts"]) == ["Describe the image.", ""]

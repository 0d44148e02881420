"""What is said from a context, held to attention that is knocked out."""

import sys

import pytest
import torch

from lookonce_evaluation.bench.checkpoints import TINY, write_qwen2_vl
from lookonce_evaluation.dataset import held_out
from lookonce_evaluation.describing import generate
from lookonce_evaluation.judge import RuleJudge
from lookonce_evaluation.prompts import look, taken
from lookonce_evaluation.retelling import blinded, describe_again, kept_tokens, retell
from lookonce_evaluation.subject import Subject
from lookonce_pruning import Blocked, Knockout, parse_window

CASES = held_out(3, 600_000_100)


@pytest.fixture(scope="module", params=range(len(CASES)))
def described(subject, settings, request):
    window = parse_window(settings.window, subject.runner.num_layers)
    return subject.describe(CASES[request.param], window)


def knocked_out(subject, described, dropped):
    """The description where generated tokens do not look at the dropped image tokens."""
    rows = range(described.prompt.tokens, sys.maxsize)
    blocked = Blocked(rows, described.prompt.image_positions[dropped], range(subject.runner.num_layers))
    tokenizer = subject.prompts.tokenizer
    with Knockout(subject.runner.model, [[blocked]]):
        _, said = generate(subject.runner, described.prompt, tokenizer.eos_token_id, 128)
    return tokenizer.decode(said)


@pytest.mark.parametrize("share", [1.0, 0.05, 0.02, 0.0])
def test_a_description_decoded_from_a_context_is_that_without_the_other_tokens(subject, settings, described, share):
    kept = kept_tokens(described, share, settings)
    dropped = [i for i in range(len(described.prompt.image_positions)) if i not in kept[0].tolist()]
    said = retell(subject, described, kept)
    assert said == knocked_out(subject, described, dropped)
    assert (said == described.text) or share < 1


def test_one_that_says_nothing_is_retold_as_nothing(subject, described):
    assert retell(subject, described._replace(said=[], text=""), torch.empty(1, 0, dtype=torch.int64)) == ""


def test_the_same_prompt_asked_again_of_everything_is_answered(subject, settings, described):
    """The bundled model answers later turns briefly; what is asked matters, not what comes."""
    kept = kept_tokens(described, 1.0, settings)
    one = describe_again(subject, described, kept, "How many objects are there?")
    assert one in "1234"
    assert describe_again(subject, described, kept[:, :1], "What color is the object?") != one


def test_blind_tokens_hold_nothing_of_the_image(subject, settings):
    """By tokens that never saw it, two images are the same."""
    window = parse_window(settings.window, subject.runner.num_layers)
    seen = [subject.describe(case, window) for case in CASES[:2]]
    blind = [blinded(subject, one) for one in seen]

    def query(one):
        return torch.stack([one.keys, one.values])[:, :, :, int(one.prompt.image_positions.max()) + 1 :]

    torch.testing.assert_close(query(blind[0]), query(blind[1]), atol=1e-4, rtol=1e-4)
    assert (query(seen[0]) - query(seen[1])).abs().max() > 0.1
    assert len({retell(subject, one, kept_tokens(one, 0.0, settings)) for one in blind}) == 1


def test_positions_in_three_components_are_kept_too(settings, tmp_path):
    """A tiny Qwen2-VL with random weights: each token said depends on every position."""
    qwen = Subject.load(str(write_qwen2_vl(tmp_path, TINY)), settings)
    described = qwen.describe(CASES[0], parse_window(settings.window, qwen.runner.num_layers))
    kept = kept_tokens(described, 0.05, settings)
    dropped = [i for i in range(len(described.prompt.image_positions)) if i not in kept[0].tolist()]
    said = retell(qwen, described, kept)
    assert said == knocked_out(qwen, described, dropped) != described.text
    prompts = taken(qwen, ["Describe the image.", ""])
    assert list(look(qwen, settings, RuleJudge(), prompts, CASES[0])["prompts"]) == ["Describe the image.", ""]

"""Scores of more than one describe pass: other prompts, and the description read again (KVzip)."""

from functools import partial

import torch
from torch import Tensor

from lookonce_evaluation.search.candidate import Candidate, Look, choosing, middle_half
from lookonce_pruning import AttentionRecorder, get_selection
from lookonce_scenes.questions import DESCRIBE_PROMPTS
from lookonce_server.engines.conversation import Conversation, Turn

OTHERS = DESCRIBE_PROMPTS[1:3]
COUNTING = "How many objects are there?"


def candidates(num_layers: int) -> list[Candidate]:
    """All tokens kept are of the default describe pass; only the scores differ."""
    half = middle_half(num_layers)
    return [
        choosing("prompts", "with two more describe prompts", partial(several, layers=half, prompts=OTHERS)),
        choosing("prompts", "with a counting question", partial(several, layers=half, prompts=(COUNTING,))),
        choosing("read again", "mean over its rows", partial(again, layers=half, most=False)),
        choosing("read again", "most of any row, all layers", partial(again, layers=range(num_layers), most=True)),
    ]


def several(look: Look, keep: int, *, layers: range, prompts: tuple[str, ...]) -> Tensor:
    """The mean with the scores of passes by other prompts."""
    others = [_scores(look, prompt)[layers.start : layers.stop] for prompt in prompts]
    values = torch.stack([look.scores(layers).values, *others]).mean(dim=0)
    return get_selection("coverage").select(look.with_values(values, layers), keep)


def again(look: Look, keep: int, *, layers: range, most: bool) -> Tensor:
    """What the description's tokens pay when they are given once more, after the first time.

    KVzip (Kim et al., arXiv 2505.23416, section 3) scores a cache by the attention it draws while its text is
    repeated, the largest over rows. An image has no text to repeat; its description takes its place.
    """
    rows = look.shared("read again", _read_again)[layers.start : layers.stop]
    values = rows.amax(dim=1) if most else rows.mean(dim=1)
    return get_selection("coverage").select(look.with_values(values, layers), keep)


def _scores(look: Look, prompt: str) -> Tensor:
    def passed(look: Look) -> Tensor:
        return look.subject.describe(look.case, look.all_layers, prompt).scores().values

    return look.shared(prompt, passed)


def _read_again(look: Look) -> Tensor:
    """[layers, rows, image tokens], of the description's second time."""
    subject, described = look.subject, look.described
    prompt, said = described.prompt, torch.tensor([described.said])
    turn = Conversation((Turn("user", subject.describe_prompt, has_image=True),))
    between = subject.prompts.continuation(subject.describe_prompt, turn)
    recorder = AttentionRecorder(
        subject.runner.model,
        image_positions=prompt.image_positions,
        prompt_length=prompt.tokens,
        window=look.all_layers,
        grid=prompt.grid,
    )
    with recorder:
        state = subject.runner.prefill(prompt)
        subject.runner.extend(state.cache, state.next_position, torch.cat((said, between, said), dim=1))
    end = prompt.tokens + 2 * said.shape[1] + between.shape[1]
    return recorder.weights(range(end - said.shape[1] - 1, end), prompt.image_positions)

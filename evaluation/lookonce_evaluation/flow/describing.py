"""Descriptions of an image with attention knocked out, many at once."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from lookonce_evaluation.batching import expanded, extend
from lookonce_evaluation.flow.groups import describe_groups
from lookonce_evaluation.flow.trials import Trial
from lookonce_evaluation.subject import Prefix, Subject
from lookonce_pruning import Blocked, Knockout

MAX_TOKENS = 128


def descriptions(subject: Subject, image: Image.Image, trials: Sequence[Trial], *, rows: int = 64) -> list[str]:
    """The ordinary greedy description, and what becomes of it in each trial.

    The prompt up to the image's end is run once: nothing is knocked out before it. From there on each trial is a row
    of a batch.

    Args:
        subject: the checkpoint.
        image: the picture.
        trials: what is knocked out; flows of `KINDS`.
        rows: most rows of a batch.
    """
    prompt = subject.prompts.describe(subject.describe_prompt, image)
    groups = describe_groups(prompt)
    prefix = subject.prefix(image)
    ids = prompt.inputs["input_ids"][0, groups.query.start :]
    cases = [[], *(trial.blocked(groups) or [] for trial in trials)]
    said = [
        tokens
        for first in range(0, len(cases), rows)
        for tokens in _decode(subject, prefix, ids, cases[first : first + rows])
    ]
    return [subject.prompts.tokenizer.decode(tokens) for tokens in said]


def _decode(subject: Subject, prefix: Prefix, ids: Tensor, cases: Sequence[Sequence[Blocked]]) -> list[list[int]]:
    """The tokens that each case says, the end token left out; a case that has ended leaves the batch."""
    end = subject.prompts.tokenizer.eos_token_id
    said: list[list[int]] = [[] for _ in cases]
    live = list(range(len(cases)))
    cache = expanded(subject.runner, prefix.keys, prefix.values, len(cases))
    position, given = prefix.next_position, ids.expand(len(cases), -1)
    while live:
        with Knockout(subject.runner.model, [cases[i] for i in live]):
            _, position, logits = extend(subject.runner, cache, position, given)
        chosen = logits[:, -1].argmax(-1).cpu()
        on = [row for row, i in enumerate(live) if chosen[row] != end and len(said[i]) < MAX_TOKENS]
        if len(on) < len(live):
            cache.batch_select_indices(torch.tensor(on, dtype=torch.long, device=logits.device))
        live, given = [live[row] for row in on], chosen[on, None]
        for i, (token,) in zip(live, given.tolist(), strict=True):
            said[i].append(token)
    return said

"""One image, asked in many ways: a single describe pass, recorded in all layers, serves every window."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lookonce_evaluation.calibrating.candidates import Candidate, Way
from lookonce_evaluation.calibrating.tasks import Asked
from lookonce_evaluation.dataset import Case
from lookonce_evaluation.describing import Described
from lookonce_evaluation.runs import JSON
from lookonce_evaluation.subject import Subject
from lookonce_pruning import ImageScores, get_selection, kept_count


def measure(subject: Subject, asked: Asked, ways: Sequence[Way]) -> JSON:
    """What every way of keeping image tokens makes of one image's answers.

    Returns:
        `columns` of the questions; `full`, which of them the full pass has right, as a text of 0 and 1; `ways`, by
        name, the same and the mean KL divergence of the first tokens from the full pass's; `sizes`, by retention and
        of the "full" pass, tokens and bytes of keys and values.
    """
    described = subject.describe(Case("", asked.image, {}, {}), range(subject.runner.num_layers))
    scores = {rows: described.scores(rows) for rows in {way.candidate.rows for way in ways}}
    seen: dict[tuple[int, ...], tuple[str, float]] = {}
    sizes = {"full": [asked.prefix.tokens, 2 * asked.prefix.keys.nbytes]}
    found = {}
    for way in ways:
        kept = chosen(scores[way.candidate.rows], way.candidate, way.retention)
        key = (len(kept), *kept.flatten().tolist())
        if key not in seen:  # candidates often agree, most of all on few tokens
            seen[key], sizes[f"{way.retention:g}"] = _judged(subject, asked, described, kept)
        found[str(way)] = list(seen[key])
    return {"columns": asked.columns, "full": _bits(asked.right), "ways": found, "sizes": sizes}


def chosen(scores: ImageScores, candidate: Candidate, retention: float) -> Tensor:
    """The image tokens that stay, `[1 or layers, kept]`, by scores of all layers."""
    window = range(*candidate.window)
    seen = replace(scores, values=scores.values[window.start : window.stop], layers=tuple(window))
    return get_selection(candidate.selection).select(seen, kept_count(retention, scores.tokens))


def _judged(subject: Subject, asked: Asked, described: Described, kept: Tensor) -> tuple[tuple[str, float], list[int]]:
    packed = described.packed(kept, subject.runner.inv_freq)
    graded = subject.grader.judge(packed.keys, packed.values, packed.tokens, asked.questions, asked.answers)
    full, ours = (F.log_softmax(logits.float(), -1).cpu() for logits in (asked.first, graded.first))
    far = float(F.kl_div(ours, full, log_target=True, reduction="batchmean").clamp_min(0))
    return (_bits(graded.right), round(far, 6)), [packed.tokens, 2 * packed.keys.nbytes]


def _bits(right: Iterable[bool]) -> str:
    return "".join("01"[one] for one in right)


def bits(text: str) -> Tensor:
    """The other way round, float."""
    return torch.tensor([float(one) for one in text])

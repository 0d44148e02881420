"""Accuracy by retention and selection: `lookonce eval retention`.

Every row answers the same questions about the same held-out scenes: the full pass (the whole image, asked directly),
and contexts that keep a share of the image tokens by each selection. `oracle` knows where the objects are: the room
that any selection has. Random and uniform stand beside attention always, for attention-ranked pruning is often no
better.
"""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from lookonce_evaluation.commands import parser
from lookonce_evaluation.dataset import Case, held_out
from lookonce_evaluation.subject import Subject
from lookonce_pruning import ImageScores, get_selection, kept_count, parse_window
from lookonce_scenes.questions import CATEGORIES
from lookonce_scenes.tokenizer import GRID, PATCH_SIZE
from lookonce_scenes.world import Scene
from lookonce_server.settings import Settings

RETENTIONS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.0)
SELECTIONS = ("coverage", "attention", "uniform", "random", "oracle")


class Row(NamedTuple):
    """What one way of answering reached, in percent."""

    name: str
    retention: float | None  # None: the full pass
    tokens: float  # in context before the question
    bytes: int  # of keys and values
    accuracy: dict[str, float]  # ACC of the yes/no questions, by category that was asked
    accuracy_plus: dict[str, float]  # ACC+: images with both right
    open: dict[str, float]  # exact answers to the open questions
    mean: dict[str, float]  # macro means of the three


class Tally:
    """Counts right answers of one way of answering."""

    def __init__(self, name: str, retention: float | None) -> None:
        self._name, self._retention = name, retention
        self._right: dict[str, dict[str, list[float]]] = {k: defaultdict(list) for k in ("acc", "acc+", "open")}
        self._tokens: list[int] = []
        self._bytes: list[int] = []

    def add(self, case: Case, right: list[bool], keys: Tensor) -> None:
        """Take the grades of one image, in the order of `Case.questions`."""
        grades = iter(right)
        for category in case.pairs:
            yes, no = next(grades), next(grades)
            self._right["acc"][category] += [yes, no]
            self._right["acc+"][category].append(yes and no)
        for category in case.open:
            self._right["open"][category].append(next(grades))
        self._tokens.append(keys.shape[2])
        self._bytes.append(2 * keys.nbytes)

    def row(self) -> Row:
        """The percentages."""
        shares = {
            kind: {c: _percent(found[c]) for c in CATEGORIES if c in found} for kind, found in self._right.items()
        }
        means = {kind: round(sum(by.values()) / len(by), 1) for kind, by in shares.items()}
        tokens = sum(self._tokens) / len(self._tokens)
        size = sum(self._bytes) // len(self._bytes)
        return Row(
            self._name, self._retention, round(tokens, 1), size, shares["acc"], shares["acc+"], shares["open"], means
        )


def _percent(values: list[float]) -> float:
    return round(100 * sum(values) / len(values), 1)


def select(name: str, scores: ImageScores, keep: int, scene: Scene, seed: int) -> Tensor:
    """Indices that a selection, or the oracle, keeps of one scene's image tokens: `[1, keep]`."""
    if name == "oracle":
        return _oracle(scene, keep)
    options = {"seed": seed} if name == "random" else {}
    return get_selection(name, **options).select(scores, keep)


def _oracle(scene: Scene, keep: int) -> Tensor:
    """The tokens nearest to the objects' centres, in turn."""
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    wanted = torch.zeros(GRID * GRID)
    for o in scene.objects:
        distance = ((rows + 0.5) * PATCH_SIZE - o.y) ** 2 + ((columns + 0.5) * PATCH_SIZE - o.x) ** 2
        rank = distance.flatten().argsort().argsort()
        wanted = torch.maximum(wanted, 1 / (1 + rank))
    return wanted.topk(keep).indices.sort().values[None]


def evaluate(subject: Subject, cases: list[Case], window: range, progress: bool = True) -> list[Row]:
    """The table's rows: the full pass, then every retention of every selection."""
    ways: dict[tuple[str, float | None], Tally] = {("full pass", None): Tally("full pass", None)}
    for share in RETENTIONS:
        for name in SELECTIONS if 0 < share < 1 else ("everything" if share else "nothing",):
            ways[name, share] = Tally(name, share)
    for i, case in enumerate(tqdm(cases, disable=not progress)):
        graded, prefix = subject.full_pass(case)
        ways["full pass", None].add(case, graded.right, prefix.keys)
        described = subject.describe(case, window)
        scores = described.scores()
        for (name, retention), tally in ways.items():
            if retention is None:
                continue
            keep = kept_count(retention, scores.tokens) if retention else 0
            chosen = select("attention" if retention in (0, 1) else name, scores, keep, case.scene, i)
            graded, keys = subject.from_context(case, described, chosen)
            tally.add(case, graded.right, keys)
    return [tally.row() for tally in ways.values()]


def markdown(rows: list[Row]) -> str:
    """The table: kept share of the full pass's ACC, then means and ACC by category."""
    full = rows[0].mean["acc"]
    head = ["kept", "selection", "tokens", "KiB", "ACC", "of full", "ACC+", "open", *(f"{c}" for c in CATEGORIES)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        kept = "full pass" if row.retention is None else f"{row.retention:.0%}"
        cells = [kept, row.name, f"{row.tokens:.0f}", f"{row.bytes / 1024:.0f}", f"{row.mean['acc']:.1f}"]
        cells += [f"{100 * row.mean['acc'] / full:.1f}%", f"{row.mean['acc+']:.1f}", f"{row.mean['open']:.1f}"]
        cells += [
            " / ".join(f"{by[c]:.1f}" if c in by else "-" for by in (row.accuracy, row.accuracy_plus, row.open))
            for c in CATEGORIES
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """The command."""
    options = parser("eval retention", __doc__, images=500).parse_args(arguments)
    settings = Settings()
    subject = Subject.load(options.model, settings, options.device)
    window = parse_window(settings.window, subject.runner.num_layers)
    rows = evaluate(subject, held_out(options.images), window)
    print(markdown(rows))

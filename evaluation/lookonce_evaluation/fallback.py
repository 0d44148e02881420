"""When to ask again with the whole image: `lookonce eval fallback`.

Questions about scenes are answered from contexts and by the full pass. For each signal of how sure the answer from the
context is: how well it tells the wrong ones, and what asking those again by the full pass brings and costs. Thresholds
are chosen on other scenes than those that results are reported on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.commands import context_options, parser, positive, settings_of, window_of
from lookonce_evaluation.confidence import SIGNALS, answers
from lookonce_evaluation.dataset import HELD_OUT_SEED, SEARCH_SEED, Case, held_out
from lookonce_evaluation.paired import Outcomes
from lookonce_evaluation.roc import auc_with_interval
from lookonce_evaluation.runs import JSON, Run
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.tables import header, line
from lookonce_pruning import ScoreQueries, get_selection, kept_count

SIGNAL = "least margin"
"""What thresholds are tabulated of: the server's own signal, in nats. (It looks at the first few tokens, which are all
of an answer here.)"""
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Of the questions, asked again: for each a threshold is chosen on the search scenes."""
MARGINS = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Thresholds tried as they are."""


class Pool(NamedTuple):
    """All questions of some images, asked of contexts of one retention."""

    images: list[int]  # which image each is about
    right: Tensor  # [questions], bool: from the context
    full: Tensor  # [questions], bool: by the full pass
    signals: dict[str, Tensor]  # by name, [questions]
    hit_tokens: Tensor  # [questions], float: computed for an answer from the context
    full_tokens: Tensor  # [questions], float: computed for the full pass

    @property
    def recoverable(self) -> Tensor:
        """Wrong from the context, and right by the full pass: [questions], bool."""
        return ~self.right & self.full


class Kept(NamedTuple):
    """What contexts keep."""

    window: range
    rows: ScoreQueries
    selection: str
    retentions: tuple[float, ...]


def record(subject: Subject, case: Case, kept: Kept) -> JSON:
    """One image's questions: their grades, signals and tokens."""
    graded, prefix = subject.full_pass(case)
    tokens = [prefix.tokens + len(subject.after_image(question.text)) for question in case.questions]
    described = subject.describe(case, kept.window)
    scores = described.scores(kept.rows)
    ways = {}
    for retention in kept.retentions:
        chosen = get_selection(kept.selection).select(scores, kept_count(retention, scores.tokens))
        said = answers(subject, case.questions, described, chosen, scores)
        ways[f"{retention:g}"] = said._asdict()
    return {"full": graded.right, "full_tokens": tokens, "ways": ways}


def pooled(records: Sequence[JSON], way: str) -> Pool:
    """The questions of all records, from contexts of one retention."""
    ways = [one["ways"][way] for one in records]

    def joined(parts: list[list[Any]]) -> Tensor:
        return torch.tensor([value for part in parts for value in part])

    return Pool(
        [i for i, one in enumerate(records) for _ in one["full"]],
        joined([one["right"] for one in ways]),
        joined([one["full"] for one in records]),
        {name: joined([one["signals"][name] for one in ways]) for name in SIGNALS if name in ways[0]["signals"]},
        joined([one["prompt_tokens"] for one in ways]).float(),
        joined([one["full_tokens"] for one in records]).float(),
    )


def areas(pool: Pool) -> dict[str, dict[str, tuple[float, float, float] | None]]:
    """Areas under ROC curves, by what is to be told and by signal, with 95% intervals."""
    targets = {"recoverable": pool.recoverable, "wrong": ~pool.right}
    return {
        target: {name: auc_with_interval(signal, wanted, pool.images) for name, signal in pool.signals.items()}
        for target, wanted in targets.items()
    }


def point(pool: Pool, cases: Sequence[Case], again: Tensor) -> dict[str, float]:
    """What asking these questions again, `[questions]` bool, brings and costs; shares from 0 to 1, ACC in percent."""
    right = torch.where(again, pool.full, pool.right)
    outcomes, grades = Outcomes(), iter(right.tolist())
    for case in cases:
        outcomes.add(case, [next(grades) for _ in case.questions])
    found = float((again & pool.recoverable).sum())
    computed = pool.hit_tokens + again * pool.full_tokens
    return {
        "again": float(again.float().mean()),
        "precision": found / max(1, int(again.sum())),
        "recall": found / max(1, int(pool.recoverable.sum())),
        "acc": outcomes.percent("acc"),
        "acc+": outcomes.percent("acc+"),
        "open": outcomes.percent("open"),
        "tokens": float(computed.mean()),
        "of_full": float(computed.sum() / pool.full_tokens.sum()),
    }


def points(chosen_on: Pool, pool: Pool, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row for each threshold; those that are a share of the questions are chosen on the first pool."""
    found = {f"{share:.0%} of the search": float(chosen_on.signals[SIGNAL].quantile(share)) for share in SHARES}
    never, always = torch.zeros_like(pool.right), torch.ones_like(pool.right)
    rows: list[dict[str, Any]] = [{"chosen": "never", "threshold": None} | point(pool, cases, never)]
    for chosen, threshold in [*found.items(), *(("given", margin) for margin in MARGINS)]:
        again = pool.signals[SIGNAL] < threshold
        rows.append({"chosen": chosen, "threshold": threshold} | point(pool, cases, again))
    return [*rows, {"chosen": "always", "threshold": None} | point(pool, cases, always)]


def curve(pool: Pool, name: str, steps: int = 200) -> list[tuple[float, float]]:
    """Recall of the recoverable over the share of questions asked again, least sure first."""
    order = pool.signals[name].argsort(stable=True)
    found = pool.recoverable[order].float().cumsum(0) / max(1, int(pool.recoverable.sum()))
    at = torch.linspace(0, len(order), steps + 1).long()
    return [(float(i) / len(order), float(found[i - 1]) if i else 0.0) for i in at]


def table(result: JSON) -> str:
    """Markdown of `result.json`."""
    parts = []
    for way, found in result["ways"].items():
        share = f"{float(way):.0%}"
        counts = found["counts"]
        parts.append(
            f"At {share}: {counts['questions']} questions, of which {counts['wrong']} are wrong from the context, and"
            f" {counts['recoverable']} of these right by the full pass; {counts['harmed']} are right from the context"
            " alone."
        )
        parts.append(_areas_table(share, found["areas"]))
        parts.append(_points_table(share, found["points"]))
    return "\n\n".join(parts)


def _areas_table(share: str, found: JSON) -> str:
    lines = [header(f"AUC at {share}", "recoverable (95%)", "wrong (95%)")]
    for name in found["wrong"]:
        lines.append(line([name, *(_interval(found[target][name]) for target in ("recoverable", "wrong"))]))
    return "\n".join(lines)


def _interval(found: Sequence[float] | None) -> str:
    return "-" if found is None else "{:.3f} ({:.3f} to {:.3f})".format(*found)


def _points_table(share: str, rows: JSON) -> str:
    names = ("asked again", "precision", "recall", "ACC", "ACC+", "open", "tokens", "of full")
    lines = [header(f"{SIGNAL} below, at {share}", *names)]
    for row in rows:
        threshold = row["chosen"] if row["threshold"] is None else f"{row['threshold']:.3f} ({row['chosen']})"
        measured = [f"{row['again']:.1%}", f"{row['precision']:.1%}", f"{row['recall']:.1%}"]
        accuracy = [f"{row[kind]:.1f}" for kind in ("acc", "acc+", "open")]
        lines.append(line([threshold, *measured, *accuracy, f"{row['tokens']:.0f}", f"{row['of_full']:.0%}"]))
    return "\n".join(lines)


def summary(records: dict[str, list[JSON]], cases: Sequence[Case], retentions: Sequence[float]) -> JSON:
    """`result.json`: everything in the tables and the plot.

    Args:
        records: "search" and "held out".
        cases: those that are held out.
        retentions: of the contexts.
    """
    ways = {}
    for retention in retentions:
        way = f"{retention:g}"
        search, pool = pooled(records["search"], way), pooled(records["held out"], way)
        ways[way] = {
            "counts": {
                "questions": len(pool.right),
                "wrong": int((~pool.right).sum()),
                "recoverable": int(pool.recoverable.sum()),
                "harmed": int((pool.right & ~pool.full).sum()),
            },
            "areas": areas(pool),
            "points": points(search, pool, cases),
            "curves": {name: curve(pool, name) for name in pool.signals},
        }
    return {"ways": ways}


def plot(path: Path, result: JSON) -> None:
    """Recall of the recoverable answers over the share of questions asked again."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(result["ways"]), 3.8), layout="constrained")
    axes = figure.subplots(1, len(result["ways"]), squeeze=False)[0]
    for axis, (way, found) in zip(axes, result["ways"].items(), strict=True):
        for name, points_ in found["curves"].items():
            dashed = name.startswith("attention") or name == "scores kept"
            axis.plot(*zip(*points_, strict=True), label=name, linestyle="--" if dashed else "-", linewidth=1.2)
        axis.plot((0, 1), (0, 1), color="gray", linewidth=0.8, label="at random")
        axis.set(title=f"{float(way):.0%} kept", xlabel="share of questions asked again", xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("recoverable answers among them")
    axes[-1].legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


def main(arguments: list[str]) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    settings = settings_of(options)
    subject = Subject.load(options.model, settings, options.device)
    kept = Kept(window_of(settings, subject), settings.rows, settings.selection, options.retentions)
    run = Run(
        options.out,
        {
            "command": "eval fallback",
            "model": subject.fingerprint,
            "describe_prompt": subject.describe_prompt,
            "window": [kept.window.start, kept.window.stop],
            "rows": kept.rows,
            "selection": kept.selection,
            "retentions": list(kept.retentions),
        },
    )
    cases = held_out(options.images, HELD_OUT_SEED)
    records = {
        name: run.over(some, lambda case: record(subject, case, kept), name=lambda case: case.name)
        for name, some in (("search", held_out(options.search, SEARCH_SEED)), ("held out", cases))
    }
    result = summary(records, cases, kept.retentions)
    run.write_json("result.json", result)
    run.write("table.md", table(result))
    plot(options.out / "recall.png", result)


def _parser() -> argparse.ArgumentParser:
    made = context_options(parser("eval fallback", __doc__, images=300), (0.05, 0.02))
    made.add_argument(
        "--search", type=positive, default=300, metavar="N", help="scenes by which thresholds are chosen [%(default)s]"
    )
    return made

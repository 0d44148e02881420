"""When to ask again with the whole image: `lookonce eval fallback`.

Questions about scenes are answered from contexts and by the full pass. For each signal of how sure the answer from the
context is: how well it tells the wrong ones, and what asking those again by the full pass brings and costs. Thresholds
are chosen on other scenes than those that results are reported on.

Of every signal more means surer. Those of the first token need one forward pass and are there before anything is said;
those of the whole answer are there at its end; attention needs the model's insides, which no log-probability tells.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookonce_evaluation.data.scenes import HELD_OUT_SEED, SEARCH_SEED, Case, held_out
from lookonce_evaluation.describe import DescribePass, describe, kept_tokens
from lookonce_evaluation.metrics.bootstrap import auc_with_interval
from lookonce_evaluation.metrics.grading import full_pass
from lookonce_evaluation.metrics.mme import KINDS, Outcomes
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import context_options, parser, positive, settings_of
from lookonce_evaluation.plots import panels, save
from lookonce_evaluation.runs import JSON, Run
from lookonce_evaluation.tables import table
from lookonce_pruning import ImageScores
from lookonce_pruning.attention import AttentionCall, observed
from lookonce_pruning.capture import attention_rows
from lookonce_scenes.questions import Question
from lookonce_server.settings import Settings

FIRST_TOKEN = ("margin", "probability", "entropy")
WHOLE_ANSWER = ("least margin", "least probability")
ATTENTION = ("attention, early", "attention, middle", "attention, late")
SIGNALS = (*FIRST_TOKEN, *WHOLE_ANSWER, *ATTENTION, "scores kept")
SIGNAL = "least margin"
"""What thresholds are tabulated of: the server's own signal, in nats. (It looks at the first few tokens, which are all
of an answer here.)"""
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Of the questions, asked again: for each a threshold is chosen on the search scenes."""
MARGINS = (1.0, 2.0, 3.0, 4.0, 6.0)
"""Thresholds tried as they are."""


class Answers(NamedTuple):
    """The answers to some questions about one image, decoded greedily."""

    right: list[bool]  # whether each answer was exactly the right one
    signals: dict[str, list[float]]  # by name, one number a question
    prompt_tokens: list[int]  # run for each question, its answer left out


class ImageAttention:
    """Record the attention from a prompt's last token to the image's tokens."""

    def __init__(self, columns: Tensor) -> None:
        self._columns = columns
        self.shares: list[float] = []  # by layer

    def observe(self, layer: int, call: AttentionCall) -> Tensor | None:
        """See `AttentionHook`."""
        columns = self._columns[layer if len(self._columns) > 1 else 0]
        scale = call.query.shape[3] ** -0.5 if call.scaling is None else call.scaling
        query, key = call.query[0, :, -1:], call.key[0]
        rows = attention_rows(query, key, key.shape[1] - 1, columns, scale, window=call.window)
        self.shares.append(float(rows.sum()))
        return call.mask


def answer_questions(
    model: EvalModel, questions: list[Question], described: DescribePass, kept: Tensor, scores: ImageScores
) -> Answers:
    """Answer questions from a context, with signals of confidence."""
    context = described.context(kept)
    answers = [model.answer_ids(question.answer) for question in questions]
    longest = max(map(len, answers))
    # Of each image token kept: how many tokens of text stand before it, and how many kept ones.
    columns = described.prompt.image_positions[kept] - kept + torch.arange(kept.shape[1])
    drawn = scores.values.mean(0)
    share = float(drawn[kept[0]].sum() / drawn.sum())
    result = Answers([], {}, [])
    for question, answer in zip(questions, answers, strict=True):
        prompt, attention = model.after_context(question.text), ImageAttention(columns)
        with observed(model.runner.model.config.get_text_config(), attention):
            step = model.ask(context, prompt)
        logits: list[Tensor] = []
        (tokens,) = model.decode(step, longest, watch=logits.append)
        result.right.append([*tokens, model.end_id] == answer)
        result.prompt_tokens.append(len(prompt))
        signals = _signals(torch.cat(logits).float().cpu().log_softmax(-1))
        thirds = zip(ATTENTION, torch.tensor(attention.shares).tensor_split(3), strict=True)  # of the layers
        signals |= {name: float(third.mean()) for name, third in thirds if len(third)} | {"scores kept": share}
        for name, value in signals.items():
            result.signals.setdefault(name, []).append(value)
    return result


def _signals(logprobs: Tensor) -> dict[str, float]:
    """Compute signals of an answer, of log-probabilities `[tokens, vocabulary]`."""
    first, second = logprobs.topk(2).values.unbind(-1)
    margins, probabilities = first - second, first.exp()
    negative_entropy = (logprobs[0].exp() * logprobs[0]).sum()  # more of it means surer
    values = (margins[0], probabilities[0], negative_entropy, margins.min(), probabilities.min())
    return dict(zip((*FIRST_TOKEN, *WHOLE_ANSWER), map(float, values), strict=True))


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


def record(model: EvalModel, case: Case, settings: Settings, retentions: Sequence[float]) -> JSON:
    """Ask one image's questions: their grades, signals and tokens."""
    graded, cache = full_pass(model, case)
    described = describe(model, case, model.window(settings.window))
    scores = described.scores(settings.rows)
    ways = {}
    for retention in retentions:
        kept = kept_tokens(described, retention, settings)
        ways[f"{retention:g}"] = answer_questions(model, case.questions, described, kept, scores)._asdict()
    return {"full": graded.right, "full_tokens": [cache.tokens + len(ids) for ids in cache.prompts], "ways": ways}


def pooled(records: Sequence[JSON], retention: str) -> Pool:
    """Put the questions of all records together, from contexts of one retention."""
    answers = [record["ways"][retention] for record in records]

    def joined(parts: list[list[Any]]) -> Tensor:
        return torch.tensor([value for part in parts for value in part])

    names = [name for name in SIGNALS if name in answers[0]["signals"]]
    return Pool(
        [i for i, record in enumerate(records) for _ in record["full"]],
        joined([answer["right"] for answer in answers]),
        joined([record["full"] for record in records]),
        {name: joined([answer["signals"][name] for answer in answers]) for name in names},
        joined([answer["prompt_tokens"] for answer in answers]).float(),
        joined([record["full_tokens"] for record in records]).float(),
    )


def point(pool: Pool, cases: Sequence[Case], again: Tensor) -> dict[str, float]:
    """Weigh asking these questions again, `[questions]` bool."""
    right = torch.where(again, pool.full, pool.right)
    outcomes = Outcomes.of(cases, map(Tensor.tolist, right.split([len(case.questions) for case in cases])))
    recovered = float((again & pool.recoverable).sum())
    computed = pool.hit_tokens + again * pool.full_tokens
    return {
        "again": float(again.float().mean()),
        "precision": recovered / max(1, int(again.sum())),
        "recall": recovered / max(1, int(pool.recoverable.sum())),
        **{kind: outcomes.percent(kind) for kind in KINDS},
        "tokens": float(computed.mean()),
        "of_full": float(computed.sum() / pool.full_tokens.sum()),
    }


def points(search: Pool, pool: Pool, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Make a row for each threshold, chosen on the first pool or given."""
    thresholds = [(f"{share:.0%} of the search", float(search.signals[SIGNAL].quantile(share))) for share in SHARES]
    never, always = torch.zeros_like(pool.right), torch.ones_like(pool.right)
    rows: list[dict[str, Any]] = [{"chosen": "never", "threshold": None} | point(pool, cases, never)]
    for chosen, threshold in (*thresholds, *(("given", margin) for margin in MARGINS)):
        again = pool.signals[SIGNAL] < threshold
        rows.append({"chosen": chosen, "threshold": threshold} | point(pool, cases, again))
    return [*rows, {"chosen": "always", "threshold": None} | point(pool, cases, always)]


def curve(pool: Pool, name: str, steps: int = 200) -> list[tuple[float, float]]:
    """Trace recall of the recoverable over the share asked again."""
    order = pool.signals[name].argsort(stable=True)
    recall = pool.recoverable[order].float().cumsum(0) / max(1, int(pool.recoverable.sum()))
    at = torch.linspace(0, len(order), steps + 1).long()
    return [(float(i) / len(order), float(recall[i - 1]) if i else 0.0) for i in at]


def summary(records: dict[str, list[JSON]], cases: Sequence[Case], retentions: Sequence[float]) -> JSON:
    """Make `result.json`: everything in the tables and the plot."""
    ways = {}
    for retention in (f"{share:g}" for share in retentions):
        search, pool = pooled(records["search"], retention), pooled(records["held out"], retention)
        targets = {"recoverable": pool.recoverable, "wrong": ~pool.right}
        ways[retention] = {
            "counts": {
                "questions": len(pool.right),
                "wrong": int((~pool.right).sum()),
                "recoverable": int(pool.recoverable.sum()),
                "harmed": int((pool.right & ~pool.full).sum()),
            },
            "areas": {
                target: {name: auc_with_interval(signal, which, pool.images) for name, signal in pool.signals.items()}
                for target, which in targets.items()
            },
            "points": points(search, pool, cases),
            "curves": {name: curve(pool, name) for name in pool.signals},
        }
    return {"ways": ways}


def markdown(result: JSON) -> str:
    """Write `result.json` as Markdown."""
    parts = []
    for retention, values in result["ways"].items():
        share, counts = f"{float(retention):.0%}", values["counts"]
        parts.append(
            f"At {share}: {counts['questions']} questions, of which {counts['wrong']} are wrong from the context, and"
            f" {counts['recoverable']} of these right by the full pass; {counts['harmed']} are right from the context"
            " alone."
        )
        areas = [[values["areas"][target][name] for target in ("recoverable", "wrong")] for name in values["curves"]]
        cells = [["-" if a is None else "{:.3f} ({:.3f} to {:.3f})".format(*a) for a in row] for row in areas]
        rows = [[name, *row] for name, row in zip(values["curves"], cells, strict=True)]
        parts.append(table((f"AUC at {share}", "recoverable (95%)", "wrong (95%)"), rows))
        names = ("asked again", "precision", "recall", "ACC", "ACC+", "open", "tokens", "of full")
        parts.append(table((f"{SIGNAL} below, at {share}", *names), map(_point_cells, values["points"])))
    return "\n\n".join(parts)


def _point_cells(row: JSON) -> list[str]:
    threshold = row["chosen"] if row["threshold"] is None else f"{row['threshold']:.3f} ({row['chosen']})"
    shares = [f"{row[name]:.1%}" for name in ("again", "precision", "recall")]
    accuracy = [f"{row[kind]:.1f}" for kind in KINDS]
    return [threshold, *shares, *accuracy, f"{row['tokens']:.0f}", f"{row['of_full']:.0%}"]


def plot(path: Path, result: JSON) -> None:
    """Plot recall of the recoverable answers over the share of questions asked again."""
    ways = result["ways"]
    figure, axes = panels(1, len(ways), (4.2 * len(ways), 3.8), sharey=False)
    for axis, (retention, values) in zip(axes, ways.items(), strict=True):
        for name, curve_points in values["curves"].items():
            dashed = name.startswith("attention") or name == "scores kept"
            axis.plot(*zip(*curve_points, strict=True), label=name, linestyle="--" if dashed else "-", linewidth=1.2)
        axis.plot((0, 1), (0, 1), color="gray", linewidth=0.8, label="at random")
        axis.set(title=f"{float(retention):.0%} kept", xlabel="share of questions asked again")
        axis.set(xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("recoverable answers among them")
    axes[-1].legend(fontsize=7, loc="lower right")
    save(figure, path)


def main(arguments: list[str]) -> None:
    """Run the command."""
    command = context_options(parser("eval fallback", __doc__, images=300), (0.05, 0.02))
    text = "scenes by which thresholds are chosen [%(default)s]"
    command.add_argument("--search", type=positive, default=300, metavar="N", help=text)
    options = command.parse_args(arguments)
    settings = settings_of(options)
    model = EvalModel.load(options.model, settings, options.device)
    window = model.window(settings.window)
    config = {
        "command": "eval fallback",
        "model": model.fingerprint,
        "describe_prompt": model.describe_prompt,
        "window": [window.start, window.stop],
        "rows": settings.rows,
        "selection": settings.selection,
        "retentions": list(options.retentions),
    }
    run = Run(options.out, config)
    cases = {"search": held_out(options.search, SEARCH_SEED), "held out": held_out(options.images, HELD_OUT_SEED)}

    def work(case: Case) -> JSON:
        return record(model, case, settings, options.retentions)

    records = {name: run.over(scenes, work) for name, scenes in cases.items()}
    result = summary(records, cases["held out"], options.retentions)
    run.write_json("result.json", result)
    run.write("table.md", markdown(result))
    plot(options.out / "recall.png", result)

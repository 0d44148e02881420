"""MME by retention: `lookonce eval mme --data DIR`.

Two yes/no questions a picture: by the full pass, from contexts, and from the query tokens alone. ACC is the share of
questions answered right, ACC+ the share of pictures with both right, each the mean over a group's categories; the score
is the sum of both over the categories, as MME's. Answers are judged by their first word. MME itself is not distributed
with lookonce: see docs/evaluation.md for where it is, and for the two forms that DIR may have.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import torch

from lookonce_evaluation import methods, tables
from lookonce_evaluation.data.mme import COGNITION, PERCEPTION, Entry, read_mme, spread
from lookonce_evaluation.metrics.grading import grade_first_words
from lookonce_evaluation.metrics.mme import Row, record, rows_of
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import context_options, parser, settings_of
from lookonce_evaluation.runs import Run
from lookonce_server.images.decode import ImageLimits

RETENTIONS = (0.05, 0.02)


def groups(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Sort the pictures' categories into MME's two groups, and the others."""
    names = dict.fromkeys(category for entry in entries for category in entry.pairs)
    of = {"perception": PERCEPTION, "cognition": COGNITION, "other": [*{*names} - {*PERCEPTION, *COGNITION}]}
    present = {name: [category for category in names if category in group] for name, group in of.items()}
    return {name: categories for name, categories in present.items() if categories}


def score(row: Row) -> float:
    """Compute MME's score: ACC and ACC+ summed over the categories."""
    return sum(sum(row.outcomes.by_category(kind).values()) for kind in ("acc", "acc+"))


def report(run: Run, by_group: dict[str, list[Row]]) -> str:
    """Write the tables; returns what to show."""
    parts = []
    for name, rows in by_group.items():
        count = len(rows[0].outcomes.categories)
        parts.append(f"{name.capitalize()}, {count} {'category' if count == 1 else 'categories'}:")
        parts.append(tables.accuracy(rows, {f"score of {200 * count}": lambda row: f"{score(row):.1f}"}))
    by_category = [tables.by_category(rows) for rows in by_group.values()]
    run.write("table.md", "\n\n".join((*parts, "By category, ACC / ACC+:", *by_category)))
    return "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    """Run the command."""
    command = context_options(parser("eval mme", __doc__, images=100_000), RETENTIONS)
    command.add_argument("--data", type=Path, required=True, help="MME's folder")
    options = command.parse_args(arguments)
    entries = spread(read_mme(options.data), options.images)
    settings = settings_of(options)
    model = EvalModel.load(options.model, settings, options.device)
    scored = (settings.selection, model.window(settings.window), settings.rows, model.num_layers)
    names = ("full pass", settings.selection, "query only")
    compared = [method for method in methods.methods(options.retentions, *scored) if method.name in names]
    config = {"command": "eval mme", "model": model.fingerprint, "prompt": model.describe_prompt}
    run = Run(options.out, {**config, "methods": methods.as_json(compared)})
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_side)
    with torch.inference_mode():
        records = run.over(
            entries,
            lambda e: record(model, e.case(limits), compared, lambda *args: grade_first_words(model, *args)),
            name=_name,
        )
    by_group = {name: rows_of(entries, compared, records, group) for name, group in groups(entries).items()}
    shown = report(run, by_group)
    result = {name: [row.as_json(rows[0].outcomes) for row in rows] for name, rows in by_group.items()}
    run.write_json("result.json", config | {"images": len(entries), "groups": result})
    print(shown)


def _name(entry: Entry) -> str:
    """Name a result by the picture and its questions."""
    return f"{entry.name} {blake2b(repr(entry.pairs).encode(), digest_size=8).hexdigest()}"

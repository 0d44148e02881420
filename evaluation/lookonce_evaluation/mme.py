"""MME by retention: `lookonce eval mme --data DIR`.

Two yes/no questions a picture: by the full pass, from contexts, and from the query tokens alone. ACC is the share of
questions answered right, ACC+ the share of pictures with both right, each the mean over a group's categories; the score
is the sum of both over the categories, as MME's. Answers are judged by their first word. MME itself is not distributed
with lookonce: see docs/research/evaluation.md for where it is, and for the two forms that DIR may have.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import torch

from lookonce_evaluation.accuracy import Row, answered, as_json, by_category, described, rows_of, table
from lookonce_evaluation.commands import context_options, parser, settings_of, window_of
from lookonce_evaluation.mme_data import COGNITION, PERCEPTION, Entry, read_mme, spread
from lookonce_evaluation.runs import Run
from lookonce_evaluation.subject import Subject
from lookonce_evaluation.ways import Context, FullPass, Way
from lookonce_evaluation.yes_no import YesNo
from lookonce_server.images.decode import ImageLimits
from lookonce_server.settings import Settings

RETENTIONS = (0.05, 0.02)


def ways_of(retentions: Sequence[float], settings: Settings, window: range) -> list[Way]:
    """The full pass, contexts, and the query tokens alone."""
    scored, name = ((window.start, window.stop), settings.rows), settings.selection
    contexts = [Context(name, share, name, *scored) for share in retentions]
    return [FullPass(), *contexts, Context("query only", 0.0, "attention", *scored)]


def groups(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """MME's two groups of categories and what is in neither, as far as the pictures have them."""
    found = dict.fromkeys(category for entry in entries for category in entry.pairs)
    of = {"perception": PERCEPTION, "cognition": COGNITION, "other": [*{*found} - {*PERCEPTION, *COGNITION}]}
    present = {name: [one for one in found if one in categories] for name, categories in of.items()}
    return {name: categories for name, categories in present.items() if categories}


def score(row: Row) -> float:
    """MME's score: ACC and ACC+ added up over the categories, 200 each at most."""
    return sum(sum(row.outcomes.by_category(kind).values()) for kind in ("acc", "acc+"))


def report(run: Run, found: dict[str, list[Row]]) -> str:
    """Write the tables; returns what to show."""
    parts = []
    for name, rows in found.items():
        categories = rows[0].outcomes.categories
        many = "category" if len(categories) == 1 else "categories"
        parts.append(f"{name.capitalize()}, {len(categories)} {many}:")
        parts.append(table(rows, {f"score of {200 * len(categories)}": lambda row: f"{score(row):.1f}"}))
    shown = "\n\n".join(parts)
    tables = [by_category(rows) for rows in found.values()]
    run.write("table.md", "\n\n".join((shown, "By category, ACC / ACC+:", *tables)))
    return shown


def main(arguments: list[str]) -> None:
    """The command."""
    made = context_options(parser("eval mme", __doc__, images=100_000), RETENTIONS)
    made.add_argument("--data", type=Path, required=True, help="MME's folder")
    options = made.parse_args(arguments)
    entries = spread(read_mme(options.data), options.images)
    settings = settings_of(options)
    subject = Subject.load(options.model, settings, options.device)
    ways = ways_of(options.retentions, settings, window_of(settings, subject))
    asked = {"command": "eval mme", "model": subject.fingerprint, "prompt": subject.describe_prompt}
    run = Run(options.out, {**asked, "ways": described(ways)})
    grade = YesNo(subject).grade
    limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_side)

    with torch.inference_mode():
        records = run.over(entries, lambda one: answered(subject, one.case(limits), ways, grade), name=_name)
    found = {name: rows_of(entries, ways, records, categories) for name, categories in groups(entries).items()}
    shown = report(run, found)
    run.write_json(
        "result.json", {**asked, "images": len(entries), "groups": {n: as_json(r) for n, r in found.items()}}
    )
    print(shown)


def _name(entry: Entry) -> str:
    """What a result is found again by: the picture and what is asked about it."""
    return f"{entry.name} {blake2b(repr(entry.pairs).encode(), digest_size=8).hexdigest()}"

"""Questions about several images, by how their contexts come together: `lookonce eval albums`.

Albums of two to four held-out scenes, with questions about one of the images ("the second image ...") and comparing
questions (which, same, more, total). Every way answers the same questions: the full pass of all images; contexts that
were made of each image alone, joined as the server does; and joined with more done to them, since images that were
described apart have not seen each other. An answer is right when it is exactly the expected one, so the checkpoint has
to know albums of scenes.
"""

from collections.abc import Sequence
from typing import Any

from lookonce_evaluation.album_methods import Method, album_methods, as_json
from lookonce_evaluation.data.albums import ONE, held_out_albums
from lookonce_evaluation.data.image_set import ImageSet
from lookonce_evaluation.metrics.groups import Groups, compare, group_table, percent_table, record, rows_of
from lookonce_evaluation.model import EvalModel
from lookonce_evaluation.options import context_options, parser, settings_of
from lookonce_evaluation.runs import JSON, Run
from lookonce_evaluation.tables import table
from lookonce_scenes.questions import Question
from lookonce_server.settings import Settings

RETENTIONS = (0.2, 0.1, 0.05, 0.02)
SINGLE, COMPARING = "one image", "comparing"
DETAILED = (None, 1.0, 0.05)
"""Retentions of the rows that are shown by category."""
SHARES = (0.05, 0.1, 0.2, 0.3)
"""Of the questions, asked again: the least sure ones, by margin."""


def group_questions(albums: Sequence[ImageSet]) -> dict[str, Groups]:
    """Group the questions: by kind, by category, and by kind and number of images."""
    kinds: dict[str, list[list[int]]] = {}
    categories: dict[str, list[list[int]]] = {}
    sizes: dict[str, list[list[int]]] = {}
    for at, album in enumerate(albums):
        for number, question in enumerate(album.questions):
            kind = kind_of(question)
            names = (kind, question.category, f"{kind}, of {len(album.images)}")
            for groups, name in zip((kinds, categories, sizes), names, strict=True):
                groups.setdefault(name, [[] for _ in albums])[at].append(number)
    return {
        "kinds": {kind: kinds[kind] for kind in (SINGLE, COMPARING) if kind in kinds},
        "categories": {name: categories[name] for name in sorted(categories, key=lambda c: (c.startswith(ONE), c))},
        "sizes": {name: sizes[name] for name in sorted(sizes, key=lambda s: (s[-1], s))},
    }


def kind_of(question: Question) -> str:
    """Tell whether a question is about one image or compares several."""
    return SINGLE if question.category.startswith(ONE) else COMPARING


def fallback_rows(methods: Sequence[Method], records: Sequence[Any], groups: Groups, margin: float) -> list[JSON]:
    """Weigh asking the least sure questions again of all whole images.

    Shares are taken of the questions at hand: which ones they are does not depend on what is right.
    """
    rows: list[JSON] = []
    for place, method in enumerate(methods):
        if method.name != "joined" or method.retention in (None, 1.0):
            continue
        margins = sorted(value for each in records for value in each[place]["margins"])
        below = {f"{share:.0%} of the questions": margins[int(share * len(margins))] for share in SHARES}
        for chosen, threshold in {"never": 0.0, "the server's default": margin, **below}.items():
            rows.append({"retention": method.retention, "chosen": chosen, "margin": threshold})
            rows[-1] |= _fall_back(records, place, threshold, groups)
    return rows


def _fall_back(records: Sequence[Any], place: int, threshold: float, groups: Groups) -> JSON:
    """Ask again what is below a margin."""
    right, again, computed = [], [], []
    for each in records:
        full, ours = each[0], each[place]
        asks = [margin < threshold for margin in ours["margins"]]
        right.append([full["right"][i] if ask else ours["right"][i] for i, ask in enumerate(asks)])
        again += asks
        computed += [ours["computed"][i] + ask * full["computed"][i] for i, ask in enumerate(asks)]
    found = {name: compare(right, [each[0]["right"] for each in records], own) for name, own in groups.items()}
    shares = {name: group.as_json() for name, group in found.items() if group}
    return {"again": sum(again) / len(again), "computed": sum(computed) / len(computed), "groups": shares}


def fallback_table(rows: Sequence[JSON]) -> str:
    """Write what asking again brings and costs."""
    names = [name for group in (SINGLE, COMPARING) for name in (group, f"{group}: of full pass (95%)")]

    def cells(row: JSON) -> list[str]:
        shown = []
        for group in (SINGLE, COMPARING):
            found = row["groups"][group]
            of_full = found["of full pass"]
            interval = "{value:.1f} ({low:.1f} to {high:.1f})%".format(**of_full) if of_full else "-"
            shown += [f"{found['percent']:.1f}", interval]
        asked = row["chosen"] if row["chosen"] == "never" else f"{row['margin']:.2f} ({row['chosen']})"
        return [f"{100 * row['retention']:g}%", asked, f"{row['again']:.1%}", f"{row['computed']:.0f}", *shown]

    return table(["kept", "margin below", "asked again", "computed", *names], map(cells, rows))


def main(arguments: list[str]) -> None:
    """Run the command."""
    command = context_options(parser("eval albums", __doc__, images=200), RETENTIONS)
    options = command.parse_args(arguments)
    settings = settings_of(options)
    model = EvalModel.load(options.model, settings, options.device)
    compared = album_methods(options.retentions, settings.selection)
    window = model.window(settings.window)
    config = {
        "command": "eval albums",
        "model": model.fingerprint,
        "prompt": model.describe_prompt,
        "window": [window.start, window.stop],
        "rows": settings.rows,
    }
    run = Run(options.out, {**config, "methods": as_json(compared)})
    albums = held_out_albums(options.images)
    records = run.over(albums, lambda album: record(model, album, compared, settings))
    report(run, albums, compared, records, settings, config)


def report(
    run: Run,
    albums: Sequence[ImageSet],
    methods: Sequence[Method],
    records: Sequence[Any],
    settings: Settings,
    config: JSON,
) -> None:
    """Write the tables and `result.json`."""
    groups = group_questions(albums)
    everything = {name: own for part in groups.values() for name, own in part.items()}
    rows = rows_of(methods, records, everything)
    again = fallback_rows(methods, records, groups["kinds"], settings.fallback_margin)
    detailed = [row for row in rows if row.retention in DETAILED]
    run.write("table.md", group_table(rows, [*groups["kinds"]]))
    run.write("fallback.md", fallback_table(again))
    run.write("categories.md", percent_table(detailed, [*groups["categories"]]))
    run.write("sizes.md", percent_table(detailed, [*groups["sizes"]]))
    result = {"albums": len(albums), "rows": [row.as_json() for row in rows], "fallback": again}
    run.write_json("result.json", config | result)
    print(group_table(rows, [*groups["kinds"]]))

"""Markdown tables: of any cells, and of accuracy by method."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from lookonce_evaluation.metrics.mme import KINDS, Row


def line(cells: Iterable[object]) -> str:
    """Write a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*names: str) -> str:
    """Write the first two lines of a table."""
    return f"{line(names)}\n|{'---|' * len(names)}"


def table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a whole table."""
    return "\n".join([header(*names), *map(line, rows)])


def record_table(rows: Sequence[Mapping[str, object]], number: str = ".1f") -> str:
    """Write rows as a table, with their keys as its header.

    Args:
        rows: the rows, which have the same keys.
        number: the format of all cells but texts and whole numbers.
    """

    def text(cell: object) -> str:
        return "-" if cell is None else str(cell) if isinstance(cell, str | int) else format(cell, number)

    return table(rows[0], (map(text, row.values()) for row in rows))


def accuracy(rows: Sequence[Row], more: Mapping[str, Callable[[Row], str]] | None = None) -> str:
    """Write accuracies, and 95% intervals of the differences to the first row."""
    full, more = rows[0].outcomes, more or {}
    names = [name for kind in full.kinds for name in (KINDS[kind], "to full pass (95%)")]

    def cells(row: Row) -> list[str]:
        values = [kept(row), row.name, f"{row.tokens:.0f}", f"{row.bytes / 1024:.0f}"]
        for kind in full.kinds:
            values += [_percent(row, kind), "-" if row is rows[0] else str(row.outcomes.change(full, kind))]
            if kind == "acc":
                values.insert(-1, of_full(row.outcomes.percent(kind), full.percent(kind)))
        return values + [cell(row) for cell in more.values()]

    return table(["kept", "way", "tokens", "KiB", names[0], "of full pass", *names[1:], *more], map(cells, rows))


def by_category(rows: Sequence[Row]) -> str:
    """Write the rows' accuracies in each category."""
    first = rows[0].outcomes
    categories = [category for category in first.categories if category in first.by_category("acc")]

    def cells(row: Row) -> list[str]:
        shares = [row.outcomes.by_category(kind) for kind in row.outcomes.kinds]
        values = [" / ".join(f"{by[c]:.1f}" if c in by else "-" for by in shares) for c in categories]
        return [kept(row), row.name, *values]

    return table(["kept", "way", *categories], map(cells, rows))


def kept(row: Row) -> str:
    """Write a row's retention."""
    return "-" if row.retention is None else f"{100 * row.retention:g}%"


def of_full(percent: float, full: float) -> str:
    """Write a share of the full pass's accuracy."""
    return f"{100 * percent / full:.1f}%" if full else "-"


def _percent(row: Row, kind: str) -> str:
    """Write an accuracy, with the range over seeds where there are several."""
    mean, seeds = f"{row.outcomes.percent(kind):.1f}", [outcomes.percent(kind) for outcomes in row.seeds]
    return mean if len(seeds) == 1 else f"{mean} ({min(seeds):.1f} to {max(seeds):.1f})"

"""What the paper reports, beside what was measured here."""

from collections.abc import Sequence
from typing import NamedTuple

from lookonce_evaluation.accuracy import Row, of_full
from lookonce_evaluation.tables import header, line


class Published(NamedTuple):
    """A row of the paper's table."""

    name: str
    accuracy: float  # ACC, percent
    accuracy_plus: float
    tokens: int  # in context
    way: str | None  # what it is called here; None: the default selection
    retention: float | None


PUBLISHED = (
    Published("naive", 84.83, 70.60, 1695, "full pass", None),
    Published("query + K = 5%", 81.46, 64.52, 201, None, 0.05),
    Published("query + K = 2%", 77.16, 55.94, 151, None, 0.02),
    Published("query only", 61.03, 28.45, 60, "query only", 0.0),
    Published("K = 2%, image only", 62.40, 31.84, 91, "image only", 0.02),
    Published("caption given to an LLM", 73.21, 56.14, 172, "caption only", None),
)
"""Kaduri et al., arXiv 2411.17491: InternVL2-76B on MME's ten perception categories."""


def beside_the_papers(rows: Sequence[Row], default: str) -> str:
    """The paper's table with this run's rows beside its own: other pictures, other questions, another model.

    Args:
        rows: this run's.
        default: the name of the rows with the default selection.
    """
    found = {(row.name, row.retention): row for row in rows}
    columns = ("ACC", "of full pass", "ACC+", "tokens")
    lines = [header("", *(f"paper: {one}" for one in columns), "here", *(f"here: {one}" for one in columns))]
    for one in PUBLISHED:
        paper = (one.accuracy, one.accuracy_plus, one.tokens, PUBLISHED[0].accuracy)
        row = found.get((one.way or default, one.retention))
        if row:
            ours = (
                row.outcomes.percent("acc"),
                row.outcomes.percent("acc+"),
                row.tokens,
                rows[0].outcomes.percent("acc"),
            )
            shown = f"{row.name}, {row.kept}" if row.retention else row.name
            lines.append(line([one.name, *_cells(*paper), shown, *_cells(*ours)]))
    return "\n".join(lines)


def _cells(accuracy: float, plus: float, tokens: float, full: float) -> list[str]:
    return [f"{accuracy:.1f}", of_full(accuracy, full), f"{plus:.1f}", f"{tokens:.0f}"]

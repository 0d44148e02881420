"""Tables as Markdown has them."""

from collections.abc import Iterable


def line(cells: Iterable[object]) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*names: str) -> str:
    """The lines that a table begins with."""
    return f"{line(names)}\n|{'---|' * len(names)}"

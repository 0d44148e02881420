"""What a calibration tells: tables, and a sentence where there is no profile to write."""

from collections.abc import Sequence

from lookonce_evaluation.calibrating.candidates import Way
from lookonce_evaluation.calibrating.search import Searched, Verified
from lookonce_evaluation.tables import header, line


def candidates_table(searched: Searched) -> str:
    """The candidates that came to the end on the images that chose, the best first in each retention."""
    head = header("kept", "window", "rows", "selection", "right", "KL of first tokens")
    return "\n".join([head, *(_candidate(way, searched) for way in searched.ways)])


def _candidate(way: Way, searched: Searched) -> str:
    (first, end), rows, selection = way.candidate
    share, distance = searched.shares.share(str(way)), searched.shares.distance(str(way))
    return line((f"{way.retention:.3g}", f"{first}-{end}", rows, f"`{selection}`", f"{share:.2%}", f"{distance:.4f}"))


def verified_table(verified: Sequence[Verified], tolerance: float) -> str:
    """The winners on the other images."""
    lines = [
        header("kept", "winner", "tokens", "KiB", "right", "of the full pass", "at least", f"within {tolerance:g}")
    ]
    for one in verified:
        compared = one.compared
        cells = [
            f"{one.way.retention:.3g}",
            f"`{one.way.candidate}`",
            f"{one.size.tokens:.0f}",
            f"{one.size.bytes / 1024:.0f}",
        ]
        cells += [f"{compared.share:.2%}", f"{compared.kept:.2%}", f"{compared.at_least:.2%}"]
        lines.append(line([*cells, "yes" if one.shown else "not shown"]))
    return "\n".join(lines)


def not_shown(one: Verified, tolerance: float) -> str:
    """Why a winner is not within the tolerance, in one line."""
    compared = one.compared
    least = f"{compared.kept:.2%} of the full pass, at least {compared.at_least:.2%}, on {compared.images} images"
    needed = compared.images_needed(tolerance)
    if needed is None:
        return f"{one.way} keeps {least}: less than {1 - tolerance:.2%}"
    if compared.is_shown(tolerance):
        return f"{one.way} keeps {least}, but a larger retention was not shown to be within {tolerance:g}"
    return f"{one.way} keeps {least}: to show that it is {1 - tolerance:.2%}, about --count {2 * needed} is needed"

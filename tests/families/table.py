"""Write the table of families into docs/models.md from the results of their tests, as `make models` does.

python -m tests.families.table RESULTS.xml ...
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from lookonce_torch import install

install()  # before transformers is imported, as in tests/conftest.py

from ..support.checkpoints import CHECKPOINTS, Checkpoint  # noqa: E402
from ..support.snippets import ROOT  # noqa: E402
from .published import PUBLISHED, SIZES, count_image_tokens  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- Written by `make models`. -->\n", "<!-- Here ends what it writes. -->\n"
HEADER = (
    "| family | `model_type` | transformers: 1.0 | 0.25 | vLLM: 1.0 | 0.25 | published checkpoint"
    f" | image tokens, {' | '.join('{}x{}'.format(*size) for size in SIZES)} | KiB at 5% |\n"
    f"|{'---|' * 10}\n"
)
OTHERWISE = "which is not transformers'"
_TEST = "test_answers_are_those_of_plain_transformers"
_ENGINES = {"tests.families.test_transformers": "transformers", "tests.vllm_engine.test_families": "vllm"}


class Measured(NamedTuple):
    """The largest differences of log-probabilities in an engine."""

    everything: float
    quarter: float
    passes: float | None  # of a context with everything from the engine's own full pass

    def cells(self, *, to_itself: bool = False) -> tuple[str, str]:
        """Return the texts of the table."""
        if to_itself:
            return f"{self.passes:.0e} from its own full pass, {OTHERWISE}", ""
        return f"{self.everything:.0e}", f"{self.quarter:.0e}"


def read_results(paths: list[Path]) -> dict[tuple[str, str], Measured]:
    """Read what tests recorded, by engine and family.

    Args:
        paths: of files that `pytest --junitxml` wrote.
    """
    results = {}
    for path in paths:
        for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 (written by our own pytest)
            name, _, family = case.attrib["name"].partition("[")
            if name == _TEST and case.find("failure") is None and case.find("error") is None:
                found = {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
                engine = _ENGINES[case.attrib["classname"]]
                passes = None if found["passes"] == "None" else float(found["passes"])
                measured = Measured(float(found["everything"]), float(found["quarter"]), passes)
                results[engine, family.removesuffix("]")] = measured
    return results


def write_table(results: Mapping[tuple[str, str], Measured]) -> str:
    """Write the table of all families.

    Raises:
        KeyError: a family that an engine serves was not measured in it.
    """
    return HEADER + "".join(
        f"| {' | '.join((*_names(checkpoint), *_measures(family, results), *facts(family)))} |\n"
        for family, checkpoint in CHECKPOINTS.items()
    )


def _names(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.name, f"`{checkpoint.model_type}`"


def _measures(family: str, results: Mapping[tuple[str, str], Measured]) -> Iterator[str]:
    checkpoint = CHECKPOINTS[family]
    yield from results["transformers", family].cells()
    if (problem := checkpoint.why_not_vllm) is not None:
        yield from (f"refused: {problem}", "")
    else:
        yield from results["vllm", family].cells(to_itself=checkpoint.is_otherwise_in_vllm)


def facts(family: str) -> tuple[str, ...]:
    """Return the cells of a family that nothing has to be measured for."""
    published = PUBLISHED[family]
    counts = [count_image_tokens(family, size) for size in SIZES]
    tokens = ["" if count is None else f"{count:,}" for count in counts]
    last = counts[-1]
    return published.name, *tokens, "" if last is None else f"{published.context_bytes(last) / 1024:,.0f}"


def split_page(page: str) -> tuple[str, str, str]:
    """Return what stands before, in and after the table's place."""
    before, begin, rest = page.partition(BEGIN)
    table, end, after = rest.partition(END)
    assert begin
    assert end
    return before + begin, table, end + after


def main() -> None:
    """Rewrite the page."""
    before, _, after = split_page(PAGE.read_text())
    PAGE.write_text(before + write_table(read_results([Path(path) for path in sys.argv[1:]])) + after)


if __name__ == "__main__":
    main()

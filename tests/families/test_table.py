"""The table of docs/models.md has every family that is tested, what tests recorded, and what can be computed."""

import pytest

from ..support.checkpoints import CHECKPOINTS
from ..support.family_measures import TOLERANCE
from .published import PUBLISHED
from .table import HEADER, OTHERWISE, PAGE, facts, split_page

# Of GLM's processor.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    _, table, _ = split_page(PAGE.read_text())
    assert table.startswith(HEADER)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.removeprefix(HEADER).splitlines()]


def test_it_names_exactly_the_families_that_are_tested():
    assert list(PUBLISHED) == list(CHECKPOINTS)
    expected = [(one.name, f"`{one.model_type}`") for one in CHECKPOINTS.values()]
    assert [tuple(row[:2]) for row in rows()] == expected


def test_its_differences_are_those_that_the_tests_allow():
    for row, checkpoint in zip(rows(), CHECKPOINTS.values(), strict=True):
        found = row[2:6]
        if checkpoint.why_not_vllm:
            assert found[2:] == [f"refused: {checkpoint.why_not_vllm}", ""]
            found = found[:2]
        elif checkpoint.is_otherwise_in_vllm:
            difference, _, reason = found[2].partition(" ")
            assert (reason, found[3]) == (f"from its own full pass, {OTHERWISE}", "")
            found = [*found[:2], difference]
        assert all(float(cell) < TOLERANCE for cell in found), row


def test_its_counts_are_computed_from_what_was_published():
    for row, family in zip(rows(), CHECKPOINTS, strict=True):
        assert tuple(row[6:]) == facts(family)

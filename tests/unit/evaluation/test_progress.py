"""Progress is for people who watch: on a terminal, with the time left, and not beside a log of JSON."""

import io
import sys

import pytest

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.progress import bar
from lookonce_evaluation.runs import Run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "log_format", "is_shown"),
    [(Terminal, None, True), (Terminal, "text", True), (Terminal, "json", False), (io.StringIO, None, False)],
)
def test_it_is_shown_to_a_person_alone(monkeypatch, stream, log_format, is_shown):
    if log_format:
        monkeypatch.setenv("LOOKONCE_LOG_FORMAT", log_format)
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(bar([3, 4], total=5, done=3, label="retention")) == [3, 4]
    shown = sys.stderr.getvalue()
    assert bool(shown) == is_shown
    assert not is_shown or ("retention:  60% |" in shown and " 3 of 5, " in shown and " so far, ? left" in shown)
    assert not is_shown or " 5 of 5, " in shown


def test_it_counts_what_an_interrupted_run_has_done(monkeypatch, tmp_path):
    def work(item):
        if item == 2:
            raise EvaluationError
        return item

    with pytest.raises(EvaluationError):
        Run(tmp_path, {}).over([0, 1, 2, 3], work, name=str)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert Run(tmp_path, {}).over([0, 1, 2, 2, 3], lambda item: item, name=str) == [0, 1, 2, 2, 3]
    assert f"{tmp_path.name}:  60% |" in sys.stderr.getvalue()

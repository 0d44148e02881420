"""An interrupted run goes on where it was, and never mixes the results of two questions."""

import pytest

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.runs import Run

ASKED = {"command": "eval retention", "ways": ["full pass", ["coverage", 0.05]]}


def squares(run, items, computed):
    def work(item):
        computed.append(item)
        if item == 13:
            raise KeyboardInterrupt
        return {"square": item * item}

    return run.over(items, work, name=str)


def test_what_was_done_before_is_not_done_again(tmp_path):
    computed = []
    with pytest.raises(KeyboardInterrupt):
        squares(Run(tmp_path / "run", ASKED), [3, 4, 13, 5], computed)
    assert squares(Run(tmp_path / "run", ASKED), [4, 5, 3], computed) == [{"square": 16}, {"square": 25}, {"square": 9}]
    assert computed == [3, 4, 13, 5]


def test_a_torn_last_line_is_done_again(tmp_path):
    squares(Run(tmp_path, ASKED), [3, 4, 5], [])
    file = tmp_path / "records.jsonl"
    file.write_text(file.read_text()[:-4])
    computed = []
    assert squares(Run(tmp_path, ASKED), [3, 4, 5], computed)[2] == {"square": 25}
    assert computed == [5]
    assert squares(Run(tmp_path, ASKED), [3, 4, 5], computed)[2] == {"square": 25}
    assert computed == [5]


def test_results_of_another_question_are_refused(tmp_path):
    squares(Run(tmp_path, ASKED), [3], [])
    with pytest.raises(EvaluationError, match=r"another run \(command: 'eval retention', now 'x'\)"):
        Run(tmp_path, {**ASKED, "command": "x"})
    assert squares(Run(tmp_path, ASKED), [3], None) == [{"square": 9}]


def test_a_file_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "records.jsonl").write_text("hello\n")
    with pytest.raises(EvaluationError, match="or none that can be read"):
        Run(tmp_path, ASKED)


def test_fresh_results_equal_kept_ones(tmp_path):
    """What cannot be read back as it was must not differ between a first and a resumed run."""
    first = Run(tmp_path, ASKED).over([1], lambda _: {"pair": (1, 2)}, name=str)
    again = Run(tmp_path, ASKED).over([1], None, name=str)
    assert first == again == [{"pair": [1, 2]}]


def test_a_result_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Run(tmp_path, ASKED).over([1], lambda _: float("nan"), name=str)

"""`make soak`: a server answers, and rightly, while its store is killed; and the soak would notice if it did not."""

import json
from dataclasses import replace

import pytest

from lookonce_evaluation import soak
from lookonce_evaluation.soaking.truth import Picture, Right

from ..support.redis_server import BINARY_VARIABLE, find_redis_server

pytestmark = [pytest.mark.extended, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def redis_binary():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BINARY_VARIABLE, find_redis_server()[0])
        yield


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return soak.truth(soak.options().parse_args(["--pictures", "3", "--questions", "2"]))


def test_a_quick_run_loses_nothing(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert soak.main(["--quick", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    total = figures["all"]
    assert figures["restarts"] == 1
    assert total["answers"] > 0
    assert (total["wrong"], total["lost"], total["unexplained"]) == (0, 0, 0)
    assert total["requests"] == sum(kind["requests"] for kind in figures["kinds"].values())
    assert 0 < total["p50_ms"] <= total["p99_ms"] <= total["longest_ms"]
    assert figures["errors in the server's log"] == 0
    assert "| all |" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["full", "context"])
def test_wrong_answers_are_noticed(pictures, way):
    """What is right is exchanged between the pictures, for one of the ways an answer comes."""
    swapped = [
        replace(one, answers={q: _swapped(right, other.answers.get(q), way) for q, right in one.answers.items()})
        for one, other in zip(pictures, pictures[1:] + pictures[:1], strict=True)
    ]
    arguments = soak.options().parse_args(["--minutes", "0.1", "--threads", "2"])
    soaked = soak.soak(arguments, swapped)
    wrong = [reply for reply in soaked.tally.bad() if reply.outcome == "wrong"]
    assert wrong
    assert {reply.hit for reply in wrong if way == "context"} <= {True, False}
    assert not any(reply.hit for reply in wrong) or way == "context"
    assert not soaked.is_good


def _swapped(right: Right, other: Right | None, way: str) -> Right:
    return right._replace(**{way: getattr(other, way) if other else "not this"})

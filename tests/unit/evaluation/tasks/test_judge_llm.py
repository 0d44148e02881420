"""A language model as the judge, over real HTTP: what it is asked, what of its answers counts, and what is refused.

No language model is at hand here: the endpoint plays back answers written by hand. So this holds the protocol to the
counts made by hand, from the prompts to the counting; how well a real model judges, `--check` measures.
"""

import json

import jsonschema
import pytest

from lookonce_evaluation.errors import EvaluationError
from lookonce_evaluation.metrics.captions import Score
from lookonce_evaluation.tasks.judge import llm
from lookonce_evaluation.tasks.judge.command import fixed_set
from lookonce_evaluation.tasks.judge.judges import RuleJudge, score
from lookonce_evaluation.tasks.judge.llm import SEED, LLMJudge

from ....support.judge_endpoint import Endpoint, listed, matched, replies, serving

KEY = "sk-very-secret-0123456789"


def judged(endpoint, **options):
    """The fixed set's counts, by what is altered."""
    with serving(endpoint) as url:
        judge = LLMJudge(url, "judge-1", KEY, **options)
        return {known.what: score(judge, known.original, known.altered) for known in fixed_set()}, judge


@pytest.mark.parametrize("tidy", [True, False])
def test_the_model_and_the_rules_agree_with_the_counts_made_by_hand(tidy):
    found, _ = judged(Endpoint(replies(tidy=tidy)))
    assert found == {known.what: known.counts for known in fixed_set()}
    assert found == {known.what: score(RuleJudge(), known.original, known.altered) for known in fixed_set()}


def test_questions_are_asked_as_they_should_be_and_once():
    endpoint = Endpoint(replies(tidy=True))
    judged(endpoint)
    questions = [request["messages"][1]["content"] for request in endpoint.requests]
    assert len(set(questions)) == len(questions)
    assert endpoint.keys == {f"Bearer {KEY}"}
    for request in endpoint.requests:
        assert (request["model"], request["temperature"], request["seed"]) == ("judge-1", 0, SEED)
        system, question = request["messages"]
        lists = question["content"].startswith("Original:")
        assert system["content"] == (llm.MATCH.format(criterion=llm.CRITERIA[False]) if lists else llm.LIST)
        schema = request["response_format"]["json_schema"]["schema"]
        jsonschema.validate(json.loads(matched([(1, 2)]) if lists else listed(["a"])), schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(listed(["a"]) if lists else matched([(1, 2)])), schema)


@pytest.mark.parametrize("refused", [["response_format"], ["temperature"], ["seed", "response_format"]])
def test_what_an_endpoint_does_not_take_is_left_out_and_told(refused):
    endpoint = Endpoint(replies(tidy=True), refuse=refused)
    found, judge = judged(endpoint)
    assert found == {known.what: known.counts for known in fixed_set()}
    assert judge.refused == refused
    assert all(name not in endpoint.requests[-1] for name in refused)
    assert sum(any(name in request for name in refused) for request in endpoint.requests) == len(refused)


def test_colours_may_be_ignored():
    pair = llm.match_question(["red circle"], ["blue circle"])
    endpoint = Endpoint({pair: [matched([(1, 1)])]})
    with serving(endpoint) as url:
        assert LLMJudge(url, "m", None, ignore_colors=True).match(["red circle"], ["blue circle"]) == [(0, 0)]
    assert "Colours, sizes, places and other details do not count" in endpoint.requests[0]["messages"][0]["content"]
    assert score(RuleJudge(ignore_colors=True), "a red circle, a red star", "a blue circle") == Score(1, 0, 1)


@pytest.mark.parametrize(
    "said",
    ["", "three objects", '{"objects": "star"}', '{"objects": [1]}', '{"things": []}', '["star"]', '{"objects": [}'],
)
def test_an_answer_that_cannot_be_read_twice_is_an_error(said):
    endpoint = Endpoint({llm.list_question("a star"): [said]})
    with serving(endpoint) as url, pytest.raises(EvaluationError, match="twice, m gave no answer that can be read"):
        LLMJudge(url, "m", None).objects("a star")
    assert len(endpoint.requests) == 2
    assert endpoint.requests[1]["messages"][2:] == [
        {"role": "assistant", "content": said},
        endpoint.requests[1]["messages"][3],
    ]


@pytest.mark.parametrize("pairs", [[(0, 1)], [(1, 3)], [(2, 1)], [(1, -1)]])
def test_numbers_that_are_not_in_the_lists_are_no_answer(pairs):
    endpoint = Endpoint({llm.match_question(["a"], ["b", "c"]): [matched(pairs), matched([(1, 2)])]})
    with serving(endpoint) as url:
        assert LLMJudge(url, "m", None).match(["a"], ["b", "c"]) == [(0, 1)]
    assert "there is no" in endpoint.requests[1]["messages"][3]["content"]


def test_nothing_is_asked_about_nothing():
    endpoint = Endpoint({})
    with serving(endpoint) as url:
        judge = LLMJudge(url, "m", None)
        assert judge.objects(" \n") == judge.match([], ["a"]) == judge.match(["a"], []) == []
    assert not endpoint.requests


@pytest.mark.parametrize(
    ("say", "told"),
    [
        ((401, json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})), "refuses the key"),
        ((403, json.dumps({"error": {"message": f"{KEY} may not"}})), "refuses the key"),
        ((404, json.dumps({"error": {"message": f"no model m for {KEY}\nat all"}})), "no model m for (key) at all"),
        ((400, json.dumps({"error": {"message": "too long"}})), "too long"),
        ((200, '{"hello": 1}'), "does not answer as OpenAI's chat completions do"),
        ((200, '"hello"'), "does not answer as OpenAI's chat completions do"),
    ],
)
def test_an_endpoint_that_fails_is_one_line_without_the_key(say, told):
    with serving(Endpoint({}, say=say)) as url, pytest.raises(EvaluationError) as error:
        LLMJudge(url, "m", KEY).objects("a star")
    assert str(error.value).startswith(f"--judge {url}: ")
    assert told in str(error.value)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)


def test_an_endpoint_that_is_not_there_is_one_line():
    with serving(Endpoint({})) as url:
        pass
    with pytest.raises(EvaluationError, match=r"--judge http://.*: the endpoint cannot be reached"):
        LLMJudge(url, "m", KEY).objects("a star")

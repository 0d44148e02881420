"""`make joins`, small: many who ask about several images in other orders and company get the answers given alone."""

import random

from lookonce_evaluation.bench import joins


def test_every_answer_is_the_one_given_alone(server):
    requests = joins.plan_requests(joins.QUICK, random.Random(1))
    replies = joins.send_all(server.url, requests)
    result = joins.JoinsResult(replies, joins.expected_answers(server.url, replies, joins.QUICK.pictures))
    assert result.bad == []
    figures = joins.figures(result)
    assert (figures["questions"], figures["wrong"], figures["failed"]) == (24, 0, 0)
    assert figures["questions"] == figures["from joined contexts"] + figures["from whole images"]
    assert figures["from joined contexts"] > 8
    assert figures["different answers"] > 6  # else another picture's would pass

    # Two answers that change places are noticed.
    joined = [reply for reply in replies if reply.joined]
    first, other = next((a, b) for a in joined for b in joined if a.text != b.text)
    swapped = [first._replace(text=other.text), other._replace(text=first.text)]
    assert result._replace(replies=swapped).bad == swapped
    assert joins.figures(result._replace(replies=swapped))["wrong"] == 2

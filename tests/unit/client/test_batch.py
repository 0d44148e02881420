"""Several questions at once."""

import threading

import pytest

import lookonce

from .contract_server import Failure

QUESTIONS = [f"what is at {i}?" for i in range(9)]


def test_answers_come_in_the_order_of_the_questions(server, client, png):
    server.answers = {question: f"at {i}" for i, question in enumerate(QUESTIONS)}
    answers = client.image(png).ask_all(QUESTIONS)
    assert [answer.text for answer in answers] == [f"at {i}" for i in range(9)]


def test_a_new_images_pixels_are_sent_once(server, client, png, context_id):
    image = client.image(png)
    answers = image.ask_all(iter(QUESTIONS), max_tokens=3)
    assert [url[:9] for url in server.image_urls()] == ["data:imag"] + 8 * ["lookonce:"]
    assert [answer.hit for answer in answers] == [False] + 8 * [True]
    assert {body["max_tokens"] for body in server.bodies()} == {3}
    assert image.saved.questions == 9


def test_as_many_at_once_as_was_asked_for(server, client, png):
    server.together = threading.Barrier(4, timeout=20)
    image = client.image(png)
    image.prepare()
    assert len(image.ask_all(QUESTIONS[:8], max_concurrency=4)) == 8
    assert server.most_at_once >= 4


def test_no_more_at_once_than_was_asked_for(server, client, png):
    server.together = threading.Barrier(5, timeout=1)  # waits for a fifth, in vain
    image = client.image(png)
    image.prepare()
    assert len(image.ask_all(QUESTIONS[:8], max_concurrency=4)) == 8
    assert server.most_at_once <= 4


def test_the_first_error_ends_the_batch(server, client, png):
    image = client.image(png)
    image.prepare()
    server.failures.append(Failure(400))
    with pytest.raises(lookonce.BadRequestError):
        image.ask_all(QUESTIONS, max_concurrency=1)
    assert len(server.bodies()) == 1


def test_no_questions_are_no_answers(server, client, png):
    assert client.image(png).ask_all([]) == []
    assert server.requests == []


def test_a_single_question_is_a_batch(server, client, png):
    assert [answer.text for answer in client.image(png).ask_all(["what?"])] == ["red"]


def test_a_lost_context_is_replaced_for_all(server, client, png):
    image = client.image(png)
    image.prepare()
    server.contexts.clear()
    assert {answer.text for answer in image.ask_all(QUESTIONS, max_concurrency=9)} == {"red"}


@pytest.mark.parametrize("max_concurrency", [0, -1])
def test_a_concurrency_that_is_none(client, png, max_concurrency):
    with pytest.raises(ValueError, match=f"max_concurrency is {max_concurrency}; 1 or more is expected"):
        client.image(png).ask_all(QUESTIONS, max_concurrency=max_concurrency)

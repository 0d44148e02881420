"""A conversation: earlier turns are sent too, and a hit stays a hit."""

import pytest

import lookonce
from lookonce import Turn


def roles(body: dict) -> list[tuple[str, str]]:
    """Who said what."""
    texts = [message["content"] for message in body["messages"]]
    return [
        (message["role"], text if isinstance(text, str) else text[1]["text"])
        for message, text in zip(body["messages"], texts, strict=True)
    ]


def test_each_question_goes_with_the_turns_before_it(server, client, png, context_id):
    server.answers = {"what?": "a circle", "which colour?": "blue"}
    chat = client.image(png).chat()
    assert [chat.ask(question).text for question in ("what?", "which colour?", "sure?")] == ["a circle", "blue", "red"]
    assert roles(server.bodies()[-1]) == [
        ("user", "what?"),
        ("assistant", "a circle"),
        ("user", "which colour?"),
        ("assistant", "blue"),
        ("user", "sure?"),
    ]
    assert chat.turns == [Turn("what?", "a circle"), Turn("which colour?", "blue"), Turn("sure?", "red")]


def test_a_hit_stays_a_hit_and_the_image_is_where_it_was(server, client, png, context_id):
    chat = client.image(png).chat()
    assert [chat.ask("what?").hit for _ in range(3)] == [False, True, True]
    assert server.image_urls()[1:] == 2 * [f"lookonce:{context_id}"]
    assert [len(body["messages"]) for body in server.bodies()] == [1, 3, 5]


def test_a_streamed_answer_is_remembered_once_it_is_complete(server, client, png):
    chat = client.image(png).chat()
    with chat.stream("what?") as stream:
        next(stream)
        assert chat.turns == []
    assert chat.turns == []
    list(chat.stream("what?"))
    assert chat.turns == [Turn("what?", "dark rød")]


def test_a_question_that_fails_is_not_remembered(server, client, png):
    chat = client.image(png).chat()
    server.refuse = 400, b"{}"
    with pytest.raises(lookonce.BadRequestError):
        chat.ask("what?")
    server.refuse = None
    assert chat.turns == []


def test_turns_may_be_dropped_and_images_have_as_many_chats_as_wanted(server, client, png):
    image = client.image(png)
    chat, other = image.chat(), image.chat()
    chat.ask("what?")
    chat.turns.clear()
    chat.ask("again?")
    other.ask("what?")
    image.ask("what?")
    assert [len(body["messages"]) for body in server.bodies()] == [1, 1, 1, 1]
    assert image.saved.questions == 4


def test_options_are_of_all_its_questions_unless_one_has_its_own(server, client, png):
    chat = client.image(png, ttl=9).chat(max_tokens=7, temperature=0.5)
    chat.ask("what?")
    list(chat.stream("what?", max_tokens=2))
    assert [(body["max_tokens"], body["temperature"]) for body in server.bodies()] == [(7, 0.5), (2, 0.5)]
    assert server.bodies()[1]["lookonce"] == {"ttl": 9}
    with pytest.raises(TypeError, match="unknown option 'tokens'"):
        client.image(png).chat(tokens=1)

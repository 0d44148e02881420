"""What becomes of a chat request: the conversation, its images, how to decode."""

import json

import pytest

from lookonce_server.engines.conversation import Turn
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.chat_request import parse_chat
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.sessions.context_options import ContextOptions
from lookonce_server.settings import Settings

from ....support.app_requests import OTHER_URL, URL, image, text, user
from ....support.samples import PROMPT

NAMED = "lookonce:" + "0" * 64


def parsed(*messages, **fields):
    request = ChatRequest.model_validate({"model": "m", "messages": list(messages) or [user("Hi")]} | fields)
    return parse_chat(request, Settings(max_answer_tokens=100, describe_prompt=PROMPT, max_images=3))


def turns_of(*messages) -> tuple[Turn, ...]:
    return parsed(*messages).conversation.turns


def said(role: str, content) -> dict:
    return {"role": role, "content": content}


def refused(*messages) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parsed(*messages)
    return caught.value


# --- messages ---------------------------------------------------------------------------------------------------------


def test_text_keeps_its_side_of_the_image():
    assert turns_of(user("a", "b", image(), "c", "d")) == (Turn("user", ("a\nb", 0, "c\nd")),)
    assert turns_of(user("a", image())) == (Turn("user", ("a", 0)),)
    assert turns_of(user(image(), "a")) == (Turn("user", (0, "a")),)


def test_empty_parts_leave_no_trace():
    assert turns_of(user("", "a", "", image(), "", "b")) == (Turn("user", ("a", 0, "b")),)
    assert turns_of(user("")) == (Turn("user", ()),)


def test_every_role_has_its_turn():
    messages = [
        said("system", "s"),
        said("developer", [text("d"), text("e")]),
        user("q") | {"name": "ann"},
        said("assistant", None) | {"refusal": "no"},
        said("assistant", [text("a"), {"type": "refusal", "refusal": "but"}]),
        said("assistant", None),
        user("r"),
    ]
    assert turns_of(*messages) == (
        Turn("system", ("s",)),
        Turn("system", ("d\ne",)),
        Turn("user", ("q",), name="ann"),
        Turn("assistant", ("no",)),
        Turn("assistant", ("a\nbut",)),
        Turn("assistant", ()),
        Turn("user", ("r",)),
    )


def test_images_are_numbered_as_they_come_first_and_stand_where_they_were_sent():
    question = parsed(
        user("a", image(OTHER_URL), "b", "c", image()),
        said("assistant", "d"),
        user(image(detail="low"), "e", image(NAMED), image(OTHER_URL)),
    )
    assert question.conversation.turns == (
        Turn("user", ("a", 0, "b\nc", 1)),
        Turn("assistant", ("d",)),
        Turn("user", (1, "e", 2, 0)),
    )
    assert tuple((field.url, field.param) for field in question.images) == (
        (OTHER_URL, "messages[0].content[1].image_url.url"),
        (URL, "messages[0].content[4].image_url.url"),
        (NAMED, "messages[2].content[2].image_url.url"),
    )


def test_too_many_different_images_are_refused_by_the_first_too_many():
    some = [image(), image(OTHER_URL), image(), image(NAMED)]
    assert len(parsed(user("a", *some)).images) == 3
    error = refused(user("a", *some), user("b", image(), image(NAMED[:-1] + "1"), image(NAMED[:-1] + "2")))
    assert error.param == "messages[1].content[2].image_url.url"
    assert str(error) == "The conversation has 5 different images; this server accepts at most 3."


def test_an_image_alone_at_the_end_asks_the_describe_prompt():
    assert turns_of(user(image())) == (Turn("user", (0, PROMPT)),)
    assert turns_of(user(image()), said("system", "s")) == (Turn("user", (0, PROMPT)), Turn("system", ("s",)))
    again = (user("a", image()), said("assistant", "b"), user(image()))
    assert turns_of(*again)[-1] == Turn("user", (0, PROMPT))
    assert turns_of(user(image(), " ", image(OTHER_URL))) == (Turn("user", (0, 1, PROMPT)),)
    wished = parsed(user(image()), lookonce={"describe_prompt": "What is there?"})
    assert wished.conversation.turns == (Turn("user", (0, "What is there?")),)


def test_an_image_alone_before_a_question_asks_nothing():
    assert turns_of(user(image()), user("a"))[0] == Turn("user", (0,))


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([said("system", "s")], "messages[0].role"),
        ([user("q"), said("assistant", "a")], "messages[1].role"),
        ([user("q"), said("assistant", "a"), said("developer", "d")], "messages[1].role"),
    ],
)
def test_a_conversation_that_asks_nothing_is_refused(messages, param):
    assert refused(*messages).param == param


def test_a_system_message_may_come_last():
    assert turns_of(user("q"), said("system", "s")) == (Turn("user", ("q",)), Turn("system", ("s",)))


# --- how to decode ----------------------------------------------------------------------------------------------------


def test_what_is_not_asked_for_has_openais_defaults():
    nothing = parsed()
    assert nothing.sampling.max_tokens == 100
    assert (nothing.n, nothing.options) == (1, ContextOptions(place="lookonce."))
    nulls = {name: None for name in ChatRequest.model_fields if name not in ("model", "messages")}
    assert parsed(**nulls) == nothing


def test_max_completion_tokens_come_before_max_tokens_and_the_servers_limit_before_both():
    assert parsed(max_tokens=5).sampling.max_tokens == 5
    assert parsed(max_tokens=5, max_completion_tokens=7).sampling.max_tokens == 7
    assert parsed(max_completion_tokens=101).sampling.max_tokens == 100


def test_no_share_of_the_probability_leaves_the_likeliest_token():
    sampling = parsed(top_p=0, temperature=2).sampling
    assert (sampling.temperature, sampling.top_p) == (0, 1)


def test_stop_texts_and_biases():
    assert parsed(stop="a").sampling.stop == ("a",)
    assert parsed(stop=["a", "b"]).sampling.stop == ("a", "b")
    assert parsed(stop=[]).sampling.stop == ()
    assert parsed(logit_bias={"7": -100, "0": 1.5}).sampling.logit_bias == ((7, -100), (0, 1.5))


def test_the_response_format_becomes_a_json_schema():
    assert parsed(response_format={"type": "text"}).sampling.json_schema is None
    assert parsed(response_format={"type": "json_object"}).sampling.json_schema == '{"type":"object"}'
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"enum": ["é", 1.5, None]}}}
    for more in ({}, {"strict": True}, {"strict": False}, {"strict": None, "description": "a thing"}):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema} | more}
        text_ = parsed(response_format=wanted).sampling.json_schema
        assert text_ is not None
        assert json.loads(text_) == schema
        assert list(json.loads(text_)["properties"]) == ["b", "a"]


def test_a_schema_of_numbers_that_json_does_not_have_is_refused():
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": float("nan")}}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        parsed(response_format=wanted)

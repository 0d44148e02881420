"""Parts of a chat that are videos: their frames, their numbers, and what an image or a video alone asks."""

import pytest

from lookonce_server.engines.conversation import Turn
from lookonce_server.errors import InvalidRequestError
from lookonce_server.http.chat_request import parse_chat
from lookonce_server.http.schemas.chat import ChatRequest
from lookonce_server.images.decode import FrameSampling
from lookonce_server.settings import Settings

from ....support.app_requests import body, image, user

VIDEO = "data:video/mp4;base64,AAAA"
SETTINGS = Settings(max_frames=8, describe_video_prompt="What happens?", describe_prompt="What is there?")


def video(url: str = VIDEO, **more):
    return {"type": "video_url", "video_url": {"url": url}, **more}


def parsed(*parts):
    return parse_chat(ChatRequest.model_validate(body(messages=[user(*parts)])), SETTINGS)


def test_a_video_has_a_number_like_an_image_and_is_known_as_one():
    question = parsed(image(), "first", video(fps=1), video(fps=1), video(), "?")
    assert question.conversation.turns == (Turn("user", (0, "first", 1, 1, 2, "?")),)
    assert question.conversation.videos == {1, 2}
    assert [field.sampling for field in question.images] == [None, FrameSampling(1, 8), FrameSampling(2, 8)]
    assert question.images[1].param == "messages[0].content[2].video_url.url"


@pytest.mark.parametrize(
    ("parts", "prompt"),
    [((video(),), "What happens?"), ((image(),), "What is there?"), ((video(), image()), "What is there?")],
)
def test_a_video_alone_asks_its_own_describe_prompt(parts, prompt):
    assert parsed(*parts).conversation.turns[-1].parts[-1] == prompt


def test_more_frames_than_the_server_takes_are_refused():
    assert parsed(video(max_frames=8), "?").images[0].sampling.max_frames == 8
    with pytest.raises(InvalidRequestError, match="9; accepted here: at most 8") as error:
        parsed(image(), video(max_frames=9), "?")
    assert error.value.param == "messages[0].content[1].max_frames"


def test_only_a_user_sends_videos():
    request = ChatRequest.model_validate(body(messages=[{"role": "assistant", "content": [video()]}, user("?")]))
    with pytest.raises(InvalidRequestError, match="only user and tool messages may have videos"):
        parse_chat(request, SETTINGS)

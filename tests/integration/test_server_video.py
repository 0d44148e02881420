"""Videos through a real server, with either engine: one context each, found again by content and by id."""

import base64
import io
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from lookonce_scenes.world import render, sample_scene

from ..support.http_requests import forget
from ..support.server_process import MODEL, LookonceServer
from ..support.video_files import animation_file, video_file

QUESTION = "How many objects are there?"


def pictures(*seeds: int) -> list[Image.Image]:
    return [Image.fromarray(render(sample_scene(seed, 1, 3))) for seed in seeds]


def data_url(data: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def film(*seeds: int) -> str:
    """A video of a second a picture."""
    return data_url(video_file([picture for picture in pictures(*seeds) for _ in range(10)]))


def frames_url(*seeds: int) -> str:
    """The pictures as a list of frames."""
    files = []
    for picture in pictures(*seeds):
        file = io.BytesIO()
        picture.save(file, "PNG")
        files.append(base64.b64encode(file.getvalue()).decode())
    return "data:video/jpeg;base64," + ",".join(files)


def part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}, **more}


def ask(server: LookonceServer, *parts: dict[str, Any], question: str = QUESTION, **options: Any) -> httpx2.Response:
    content = [*parts, {"type": "text", "text": question}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "lookonce": options}
    with server.http() as http:
        return http.post("/v1/chat/completions", json=body)


def told(reply: httpx2.Response) -> tuple[str, dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return body["choices"][0]["message"]["content"], body["lookonce"]


def refused(reply: httpx2.Response) -> tuple[str, str]:
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    return error["param"], error["message"]


def test_a_video_is_described_once_and_has_one_id(server):
    video = part(film(700, 701, 702, 703), fps=1)
    _, first = told(ask(server, video, on_miss="full"))
    said, second = told(ask(server, video))
    named, third = told(ask(server, part(f"lookonce:{first['context_id']}")))
    assert [one["cache"] for one in (first, second, third)] == ["miss", "hit", "hit"]
    assert {one["context_id"] for one in (first, second, third)} == {first["context_id"]}
    assert said == named
    assert first["images"][0]["frames"] == second["images"][0]["frames"] == 4
    with server.http() as http:
        context = http.get(f"/v1/contexts/{first['context_id']}").json()
        tokens = http.get(f"/v1/contexts/{first['context_id']}/tokens").json()
        heatmap = http.get(f"/v1/contexts/{first['context_id']}/heatmap.png")
    assert (context["frames"], context["image_tokens"]) == (4, 4 * 196)
    assert (tokens["grid"], len(tokens["scores"]), len(tokens["kept"])) == ([4, 14, 14], 784, 40)
    size = Image.open(io.BytesIO(heatmap.content)).size
    assert size[0] == pytest.approx(4 * size[1], rel=0.01)


def test_each_video_has_its_own_context_and_so_has_each_choice_of_frames(server):
    videos = [
        part(film(710, 711, 712), fps=1),
        part(film(712, 711, 710), fps=1),  # backwards
        part(film(710, 711, 712), fps=2),
        part(film(710, 711, 712), fps=1, max_frames=2),
        part(frames_url(710, 711, 712), fps=1),
        part(data_url(animation_file(pictures(710, 711, 712), milliseconds=1000), "image/gif"), fps=1),
        {"type": "image_url", "image_url": {"url": data_url(animation_file(pictures(710, 711, 712)), "image/gif")}},
    ]
    answers = [told(ask(server, video, on_miss="compress", retention=0.25))[1] for video in videos]
    assert [one["images"][0].get("frames") for one in answers] == [3, 3, 6, 2, 3, 3, None]
    assert len({one["context_id"] for one in answers}) == len(videos)
    assert {one["cache"] for one in answers} == {"miss"}
    again = [told(ask(server, video, retention=0.25))[1] for video in reversed(videos)]
    assert [one["context_id"] for one in reversed(again)] == [one["context_id"] for one in answers]
    assert {one["cache"] for one in again} == {"hit"}


def test_another_video_under_the_same_words_is_another_answer(server):
    """The context that answers is that of the video sent: each is asked what only it shows."""
    for seed in (720, 721):
        video = part(film(seed, seed, seed), fps=1)
        described, first = told(ask(server, video, question="Describe the video.", on_miss="compress"))
        again, second = told(ask(server, video, question="Describe the video."))
        assert (described, first["context_id"]) == (again, second["context_id"])


def test_a_video_stands_among_images(server):
    still = {"type": "image_url", "image_url": {"url": data_url(frames_file(730), "image/png")}}
    video = part(film(731, 732), fps=1)
    _, first = told(ask(server, still, video, on_miss="compress"))
    _, second = told(ask(server, video, still))
    assert [one.get("frames") for one in first["images"]] == [None, 2]
    assert [one["context_id"] for one in second["images"]] == [one["context_id"] for one in first["images"]][::-1]
    assert second["cache"] == "hit"


def frames_file(seed: int) -> bytes:
    file = io.BytesIO()
    pictures(seed)[0].save(file, "PNG")
    return file.getvalue()


def test_more_frames_than_the_model_has_room_for_are_thinned_out(server):
    _, found = told(ask(server, part(film(*range(740, 772)), fps=1), on_miss="full"))
    _, hit = told(ask(server, part(film(*range(740, 772)), fps=1)))
    for one in (found, hit):
        assert 1 < one["images"][0]["frames"] < 32
    assert hit["cache"] == "hit"


def test_a_context_is_made_of_a_video(server):
    url = film(780, 781)
    with server.http() as http:
        made = http.post("/v1/contexts", json={"video_url": url, "fps": 1})
        assert made.status_code == 200, made.text
        assert made.json()["frames"] == 2
        assert told(ask(server, part(url, fps=1)))[1]["context_id"] == made.json()["id"]
        for body, param in (
            ({"video_url": url, "image_url": url}, "video_url"),
            ({"image_url": url, "fps": 1}, "fps"),
            ({}, "image_url"),
            ({"video_url": url, "max_frames": 33}, "max_frames"),
            ({"video_url": f"lookonce:{made.json()['id']}"}, "video_url"),
        ):
            assert refused(http.post("/v1/contexts", json=body))[0] == param
        over = http.post(f"/v1/contexts/{made.json()['id']}/heatmap.png", json={"image_url": data_url(frames_file(1))})
        assert "side by side" in refused(over)[1]
    assert forget(server, made.json()["id"]).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"fps": 0}, "messages[0].content[0].fps", ""),
        ({"max_frames": 0}, "messages[0].content[0].max_frames", ""),
        ({"max_frames": 33}, "messages[0].content[0].max_frames", "at most 32"),
        ({"speed": 1}, "messages[0].content[0].speed", ""),
        ({"url": "data:video/mp4;base64,AAAA"}, "messages[0].content[0].video_url.url", "no video of a known format"),
        ({"url": "https://example.com/a.mp4"}, "messages[0].content[0].video_url.url", "does not load remote videos"),
        ({"url": "lookonce:1"}, "messages[0].content[0].video_url.url", "no context id"),
    ],
)
def test_what_is_wrong_is_named(server, fields, param, message):
    fields = {"url": "data:video/mp4;base64,AAAA"} | fields
    named, text = refused(ask(server, part(**fields)))
    assert named == param
    assert message in text


def test_a_damaged_video_is_refused_and_an_image_that_is_a_video_too(server):
    data = video_file([picture for picture in pictures(790, 791) for _ in range(5)])
    for broken in (data[: len(data) // 2], data[:40], data[:200] + bytes(len(data) - 200)):
        param, message = refused(ask(server, part(data_url(broken))))
        assert param == "messages[0].content[0].video_url.url"
        assert message.startswith("The video")
    param, message = refused(ask(server, {"type": "image_url", "image_url": {"url": data_url(data)}}))
    assert param == "messages[0].content[0].image_url.url"
    assert message.endswith("send it as a video_url.")


def test_the_openai_package_sends_videos(client: openai.OpenAI, server):
    message: Any = {"role": "user", "content": [part(film(795, 796), fps=1), {"type": "text", "text": QUESTION}]}
    answers = [client.chat.completions.create(model=MODEL, messages=[message]) for _ in range(2)]
    assert [answer.lookonce["cache"] for answer in answers] == ["miss", "hit"]

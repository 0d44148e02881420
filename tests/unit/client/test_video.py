"""Videos: files and lists of frames, in sessions as of images."""

import base64
import io
import os
import threading

import pytest
from PIL import Image

from lookonce import ImageSourceError, ImageUsage, cli
from lookonce._reference import SentImages, is_video, read_video

from .contract_server import GREY, PNG, id_of

MP4 = b"\x00\x00\x00\x18ftypisom" + b"moving"
WEBM = b"\x1a\x45\xdf\xa3moving"
URL = "data:video/mp4;base64," + base64.b64encode(MP4).decode()


def parts(server, index: int = -1) -> list[dict]:
    """The images and videos of one of the questions."""
    return server.bodies()[index]["messages"][0]["content"][:-1]


def animation(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], loop=0)
    return file.getvalue()


def test_a_video_is_sent_once_with_its_sampling_and_then_named(server, client, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(MP4)
    clip = client.video(tmp_path / "clip.mp4", fps=1.5, max_frames=8)
    assert not clip.ask("What happens?").hit
    assert clip.ask("And then?").hit
    assert parts(server, 0) == [{"type": "video_url", "video_url": {"url": URL}, "fps": 1.5, "max_frames": 8}]
    assert parts(server, 1) == [{"type": "video_url", "video_url": {"url": f"lookonce:{id_of(URL)}"}}]
    assert clip.saved.bytes_not_sent == len(URL)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(MP4, "video/mp4"), (WEBM, "video/webm"), (animation("GIF"), "image/gif"), (animation("WEBP"), "image/webp")],
)
def test_the_type_is_read_from_the_bytes(server, client, data, media_type):
    client.video(data).ask("What happens?")
    (part,) = parts(server)
    assert part.keys() == {"type", "video_url"}
    assert part["video_url"]["url"] == f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def test_frames_are_one_video(server, client):
    frames = [PNG + b"1", Image.new("RGB", (2, 2), "red"), "data:image/png;base64,AAAA"]
    client.video(frames).ask("What happens?")
    (part,) = parts(server)
    header, *pieces = part["video_url"]["url"].split(",")
    assert (header, pieces[0], pieces[2]) == (
        "data:video/jpeg;base64",
        base64.b64encode(PNG + b"1").decode(),
        "AAAA",
    )
    assert Image.open(io.BytesIO(base64.b64decode(pieces[1]))).getpixel((0, 0)) == (255, 0, 0)
    for wrong in (["https://example.org/a.png"], [f"lookonce:{'ab' * 32}"]):
        with pytest.raises(ImageSourceError, match="frame must be given by its pixels"):
            client.video(wrong)
    with pytest.raises(ImageSourceError, match="the video is empty: 0 frames"):
        client.video([])


def test_a_video_beside_an_image_and_a_lost_one_is_sent_again(server, client):
    both = client.images(client.video(MP4, fps=1), PNG)
    both.ask("Which moves?")
    server.contexts.remove(id_of(URL))
    both.ask("Which moves?")
    sent = [[part["type"] for part in parts(server, i)] for i in range(3)]
    assert sent == 3 * [["video_url", "image_url"]]
    assert parts(server)[0] == {"type": "video_url", "video_url": {"url": URL}, "fps": 1}
    assert parts(server)[1]["image_url"]["url"].startswith("lookonce:")


def test_other_frames_of_a_video_are_another_video(server, client):
    client.images(client.video(MP4, fps=1), client.video(MP4, fps=2)).ask("Which?")
    assert [part["fps"] for part in parts(server)] == [1, 2]
    first, second = (read_video(MP4, fps=fps, max_frames=None) for fps in (1, 2))
    usages = [ImageUsage(context_id, "miss", None, 0, 0) for context_id in ("ab" * 32, "cd" * 32)]
    SentImages([first, second]).set_contexts(usages)
    assert (first.context_id, second.context_id) == ("ab" * 32, "cd" * 32)


def test_a_context_is_made_and_shown_without_pictures_beneath(server, client):
    clip = client.video(MP4, max_frames=4, retention=0.1)
    assert clip.prepare().id == id_of(URL)
    assert server.bodies("/v1/contexts") == [{"video_url": URL, "max_frames": 4, "retention": 0.1}]
    assert clip.heatmap() == GREY + b"0.05"


def test_files_are_told_apart_by_their_content():
    still = io.BytesIO()
    Image.new("RGB", (4, 4)).save(still, "WEBP", lossless=True)
    avif = b"\x00\x00\x00\x18ftypavif"
    moving = [MP4, WEBM, animation("GIF"), animation("WEBP"), "https://example.org/A.MP4?x=1", URL]
    assert [is_video(source) for source in moving] == 6 * [True]
    others = [PNG, still.getvalue(), avif, b"", b"RIFF", "https://example.org/a.png", "lookonce:ab", "data:image/gif,"]
    assert [is_video(source) for source in others] == 8 * [False]


def test_the_command_asks_about_videos(server, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(MP4)
    (tmp_path / "a.png").write_bytes(PNG)
    words = ["ask", str(tmp_path / "clip.mp4"), "--fps", "2", "--max-frames", "3", "--server", server.url]
    assert cli.main([*words, "What happens?"]) == 0
    assert parts(server) == [{"type": "video_url", "video_url": {"url": URL}, "fps": 2, "max_frames": 3}]
    both = [str(tmp_path / "a.png"), str(tmp_path / "clip.mp4")]
    assert cli.main(["ask", *both, "--server", server.url, "--", "Which moves?"]) == 0
    assert [part["type"] for part in parts(server)] == ["image_url", "video_url"]
    assert cli.main(["ask", "no.mp4", "What?", "--server", server.url]) == 1
    assert capsys.readouterr().err == "lookonce: cannot read the image 'no.mp4': No such file or directory\n"


def test_a_pipe_is_read_once(server, tmp_path):
    """As of the shell's process substitution: `lookonce ask <(convert ...)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(PNG,))
    writer.start()
    assert cli.main(["ask", str(pipe), "what?", "--server", server.url]) == 0
    writer.join()
    assert parts(server)[0]["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_a_video_by_its_id(server, client):
    server.contexts.add(id_of(URL))
    assert client.video(f"lookonce:{id_of(URL)}", fps=1).ask("What happens?").hit
    assert parts(server) == [{"type": "video_url", "video_url": {"url": f"lookonce:{id_of(URL)}"}}]
    with pytest.raises(TypeError, match="unknown option 'frames'"):
        client.video(MP4, frames=3)

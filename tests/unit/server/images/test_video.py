"""Videos: which frames are chosen, what is accepted, and that damaged ones end in one clear error."""

import io
import random
import struct

import pytest
from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import FrameSampling, ImageLimits, VideoLimits, decode_video, join_pictures
from lookonce_server.images.decode.frames import fit_size

from ....support.video_files import SIZE, animation_file, moving_pictures, number_of, video_file

LIMITS = VideoLimits()


def decode(data: bytes, fps: float = 2.0, max_frames: int = 32, limits: VideoLimits = LIMITS):
    return decode_video(data, limits, FrameSampling(fps, max_frames), "messages[0]")


def refusal(data: bytes, limits: VideoLimits = LIMITS, **sampling) -> str:
    with pytest.raises(InvalidImageError) as error:
        decode(data, limits=limits, **sampling)
    assert error.value.param == "messages[0]"
    return str(error.value)


def test_frames_are_spread_evenly_from_the_first_to_the_last():
    times = [i / 10 for i in range(31)]  # three seconds
    assert FrameSampling(1).choose(times) == [0, 10, 20, 30]
    assert FrameSampling(2).choose(times) == [0, 5, 10, 15, 20, 25, 30]
    assert FrameSampling(10, 4).choose(times) == [0, 10, 20, 30]
    assert FrameSampling(100, 1000).choose(times) == list(range(31))  # none twice
    assert FrameSampling(2, 1).choose(times) == [0]
    assert FrameSampling(1e-9).choose(times) == [0]
    assert FrameSampling(1e300).choose(times) == list(range(31))
    # A frame is shown until the next one is: of a slow start, the moments in it have the first.
    assert FrameSampling(1).choose([0.0, 2.5, 3.0]) == [0, 2]


@pytest.mark.parametrize(
    ("kind", "codec"),
    [("mp4", "libx264"), ("mp4", "libx265"), ("mp4", "mpeg4"), ("webm", "libvpx"), ("webm", "libvpx-vp9")],
)
def test_each_codec_gives_the_frames_of_its_times(kind, codec):
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    data = video_file(moving_pictures(31), kind=kind, codec=codec, g="10", **quiet)
    frames = decode(data, fps=1)
    assert [number_of(picture) for picture in frames.pictures] == [0, 10, 20, 30]
    assert frames.times == pytest.approx([0, 1, 2, 3], abs=1e-3)
    assert {picture.size for picture in frames.pictures} == {SIZE}
    assert [number_of(picture) for picture in decode(data, fps=10).pictures] == list(range(31))


def test_few_frames_of_many_are_found_by_their_key_frames():
    """What lies between is not decoded, and the frames are the same."""
    data = video_file(moving_pictures(32) * 8, g="12")
    frames = decode(data, fps=100, max_frames=9)
    numbers = [round(time * 10) for time in frames.times]
    assert numbers == [0, 31, 63, 95, 127, 159, 191, 223, 255]
    assert [number_of(picture) for picture in frames.pictures] == [number % 32 for number in numbers]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations_give_the_frames_of_their_times(kind):
    frames = decode(animation_file(moving_pictures(31), kind), fps=1)
    assert [number_of(picture) for picture in frames.pictures] == [0, 10, 20, 30]
    assert frames.times == pytest.approx([0, 1, 2, 3])
    assert [number_of(picture) for picture in decode(animation_file(moving_pictures(1), kind)).pictures] == [0]


def test_a_list_of_pictures_is_a_video():
    pictures = []
    for picture in moving_pictures(5):
        file = io.BytesIO()
        picture.save(file, "PNG")
        pictures.append(file.getvalue())
    frames = decode(join_pictures(pictures), fps=2)
    assert [number_of(picture) for picture in frames.pictures] == [0, 1, 2, 3, 4]
    assert frames.times == [0, 0.5, 1, 1.5, 2]
    assert [number_of(picture) for picture in decode(join_pictures(pictures), max_frames=3).pictures] == [0, 2, 4]
    small = io.BytesIO()
    Image.new("RGB", (20, 20)).save(small, "PNG")
    assert "Frame 6 has another size" in refusal(join_pictures([*pictures, small.getvalue()]))
    assert "Frame 2 cannot be read: The bytes are no image" in refusal(join_pictures([pictures[0], b"x"]))
    assert refusal(join_pictures([])) == "The video has no frames."
    assert "damaged" in refusal(join_pictures(pictures)[:-5])
    assert "damaged" in refusal(join_pictures(pictures) + b"\xff" * 8)


def test_a_video_is_upright_and_its_pixels_square():
    picture = Image.new("RGB", SIZE, "blue")
    picture.paste("red", (0, 0, 48, 64))  # red to the left
    data = video_file([picture] * 3)
    at = data.index(b"tkhd") + 4 + 40  # the display matrix, of a track of version 0
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[1] << 16, 0, 1 << 30)  # clockwise
    turned = decode(data[:at] + quarter + data[at + 36 :]).pictures[0]
    assert turned.size == SIZE[::-1]
    top, bottom = turned.getpixel((32, 10)), turned.getpixel((32, 80))
    assert top[0] > 200 > 60 > top[2]
    assert bottom[2] > 200 > 60 > bottom[0]


def test_frames_are_made_smaller_where_they_are_many():
    limits = VideoLimits(max_chosen_pixels=10 * 1000)
    pictures = decode(video_file(moving_pictures(30)), fps=10, max_frames=10, limits=limits).pictures
    assert {picture.size for picture in pictures} == {fit_size(SIZE, 1000)} == {(38, 25)}
    assert {
        p.size for p in decode(animation_file(moving_pictures(30)), fps=5, max_frames=10, limits=limits).pictures
    } == {(38, 25)}


def test_what_is_beyond_the_limits_is_refused_by_name():
    data = video_file(moving_pictures(30))
    assert refusal(data, VideoLimits(max_seconds=2)) == "The video has 2.9 seconds; the limit is 2."
    assert "96 x 64 pixels; the limit is 6000 in all" in refusal(data, VideoLimits(frame=ImageLimits(max_pixels=6000)))
    gif = animation_file(moving_pictures(30))
    assert "seconds; the limit is 1." in refusal(gif, VideoLimits(max_seconds=1))
    assert "96 x 64 pixels" in refusal(gif, VideoLimits(frame=ImageLimits(max_pixels=6000)))


def test_other_containers_and_codecs_are_refused():
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    concat = b"ffconcat version 1.0\nfile /etc/passwd\n"
    for data in (
        b"",
        b"x",
        playlist,
        concat,
        video_file(moving_pictures(3), kind="avi", codec="mpeg4"),
        b"\x89PNG\r\n\x1a\n",
    ):
        assert refusal(data) == "The bytes are no video of a known format (MP4, WEBM, GIF, WEBP)."
    assert "codec is mjpeg; accepted: H.264" in refusal(video_file(moving_pictures(3), codec="mjpeg"))
    assert "damaged" in refusal(b"\x00\x00\x00\x20ftypisom" + playlist)
    assert "damaged" in refusal(b"\x1aE\xdf\xa3" + concat)


def test_sound_alone_is_no_video():
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 48000
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux([*sound.encode(frame), *sound.encode()])
    assert refusal(file.getvalue()) == "The file has no video."


def test_sound_beside_it_is_ignored():
    assert len(decode(video_file(moving_pictures(20), audio=True)).pictures) == 4


@pytest.mark.parametrize("kind", ["mp4", "webm", "GIF", "WEBP"])
def test_damaged_videos_are_decoded_or_refused_clearly(kind):
    make = video_file if kind in ("mp4", "webm") else animation_file
    whole = make(moving_pictures(12), kind=kind)
    rng, messages = random.Random(7), set()
    for i in range(60):
        data = bytearray(whole)
        if i % 3 == 0:
            del data[rng.randrange(12, len(data)) :]
        else:
            for _ in range(1 if i % 3 == 1 else 20):
                data[rng.randrange(12, len(data))] = rng.randrange(256)
        try:
            frames = decode(bytes(data), fps=4)
        except InvalidImageError as error:
            messages.add((error.param, str(error)))
        else:
            assert len(frames.pictures) == len(frames.times) > 0
            assert frames.times == sorted(frames.times)
            assert len({picture.size for picture in frames.pictures}) == 1
    assert messages
    assert all(param == "messages[0]" and len(text) < 300 for param, text in messages)

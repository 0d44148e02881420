"""Processes that decode: what hangs, takes all memory or dies costs one request, and no secret is in there."""

import asyncio
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import closing

import psutil
import pytest
from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode import DecodeProcesses, FrameSampling, ImageLimits, VideoLimits, join_pictures
from lookonce_server.images.decode.pool import DecodeCrashError, DecodeTimeoutError
from lookonce_server.images.reading import Images
from lookonce_server.images.sources import ImageBytes
from lookonce_server.metrics import Metrics

from ....support.image_files import BLUE, RED, encoded, many_scans, run_length_bmp
from ....support.video_files import moving_pictures, number_of, video_file

pytestmark = pytest.mark.anyio
LIMITS = ImageLimits()
PICTURE = encoded(Image.new("RGB", (4, 3), RED), "PNG")
ENDLESS = many_scans((4000, 4000), 3000)  # minutes of work in 2 MB
# Of 9 x 9 pixels.
_TAGS = [(256, 9), (257, 9), (258, 8), (259, 8), (262, 1), (277, 1), (322, 65536), (323, 65536), (324, 200), (325, 20)]
TILE = (
    b"II*\0\x08\0\0\0"
    + struct.pack("<H", len(_TAGS))
    + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in _TAGS)
    + bytes(200)
)


@pytest.fixture
def processes():
    with closing(DecodeProcesses(2, timeout=60)) as running:
        yield running


@pytest.fixture
def hasty():
    """One process, which is given little time."""
    with closing(DecodeProcesses(1, timeout=2)) as running:
        yield running


def children() -> list[psutil.Process]:
    """The processes that decode."""
    return [one for one in psutil.Process().children() if "lookonce_server.images.decode.worker" in one.cmdline()]


async def test_pixels_come_back_as_they_are(processes):
    image = Image.merge("RGB", [Image.effect_noise((64, 48), 90) for _ in range(3)])
    decoded = await processes.decode(encoded(image, "PNG"), LIMITS, "image")
    assert (decoded.mode, decoded.size, decoded.tobytes()) == ("RGB", image.size, image.tobytes())


async def test_a_process_is_used_again_also_after_a_refusal(processes):
    before = len(children())
    await processes.decode(PICTURE, LIMITS, "image")
    with pytest.raises(InvalidImageError, match="no image of a known format") as caught:
        await processes.decode(b"pixels", LIMITS, "there")
    assert caught.value.param == "there"
    await processes.decode(PICTURE, LIMITS, "image")
    assert len(children()) == before + 1


async def test_the_limits_are_those_of_each_call(processes):
    with pytest.raises(InvalidImageError, match="4 x 3 pixels; the limit is 11 in all"):
        await processes.decode(PICTURE, ImageLimits(max_pixels=11), "image")
    assert (await processes.decode(PICTURE, ImageLimits(max_pixels=12), "image")).size == (4, 3)


async def test_what_hangs_is_ended_and_the_next_one_decoded(hasty, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(DecodeTimeoutError, match="longer than 2 seconds") as caught:
        await hasty.decode(ENDLESS, LIMITS, "there")
    assert (caught.value.param, caught.value.code) == ("there", "invalid_image")
    assert "longer than 2 seconds" in caplog.text
    assert (await hasty.decode(PICTURE, ImageLimits(), "image")).getpixel((0, 0)) == RED


async def test_what_hangs_holds_up_neither_the_event_loop_nor_another_image(processes):
    before = set(children())
    hanging = asyncio.ensure_future(processes.decode(ENDLESS, LIMITS, "image"))
    for _ in range(3):
        assert (await processes.decode(PICTURE, LIMITS, "image")).size == (4, 3)
    assert not hanging.done()
    for child in set(children()) - before:
        child.kill()
    with pytest.raises(DecodeCrashError):
        await hanging


async def test_a_decoder_that_keeps_python_busy_holds_up_nothing(processes):
    """Pillow decodes these runs in Python: in a thread the event loop would wait for the interpreter each time."""
    decoding = asyncio.ensure_future(processes.decode(run_length_bmp(1500, 1000), LIMITS, "image"))
    turns = 0
    while not decoding.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await decoding).getpixel((0, 0)) == BLUE
    assert turns > 1000


async def test_a_decoder_that_dies_costs_one_image(processes):
    before = set(children())
    await processes.decode(PICTURE, LIMITS, "image")
    (started,) = set(children()) - before
    idle = started.cpu_times().user
    dying = asyncio.ensure_future(processes.decode(ENDLESS, LIMITS, "there"))
    while started.cpu_times().user <= idle:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    started.send_signal(signal.SIGSEGV)
    with pytest.raises(DecodeCrashError, match="its decoder failed") as caught:
        await dying
    assert caught.value.param == "there"
    assert (await processes.decode(PICTURE, LIMITS, "image")).size == (4, 3)


async def test_a_process_that_died_while_idle_costs_nothing(processes):
    before = set(children())
    await processes.decode(PICTURE, LIMITS, "image")
    (idle,) = set(children()) - before
    idle.kill()
    idle.wait()
    assert (await processes.decode(PICTURE, LIMITS, "image")).size == (4, 3)


async def test_memory_is_limited(processes):
    """The largest pictures of these limits fit; one pixel in a tile of 4 GB does not."""
    limits = ImageLimits(max_pixels=1_000_000)
    image = Image.new("RGBA", (1000, 1000), RED)
    for form in ("PNG", "WEBP", "AVIF", "TIFF"):
        options = {"speed": 10} if form == "AVIF" else {}
        assert (await processes.decode(encoded(image, form, **options), limits, "image")).size == image.size
    with pytest.raises(InvalidImageError, match="decoder error -9"):
        await processes.decode(TILE, limits, "image")


async def test_as_many_at_once_as_told():
    with closing(DecodeProcesses(1, timeout=60)) as one:
        before = len(children())
        decoded = await asyncio.gather(*(one.decode(PICTURE, LIMITS, "image") for _ in range(8)))
        assert len(children()) == before + 1
    assert len(children()) == before
    assert {image.size for image in decoded} == {(4, 3)}


async def test_a_process_has_none_of_the_servers_secrets_and_files(processes, monkeypatch, tmp_path):
    monkeypatch.setenv("LOOKONCE_STORE", "redis://:password@host")
    monkeypatch.setenv("HF_TOKEN", "secret")
    before = set(children())
    with (tmp_path / "secret").open("w") as secret:
        await processes.decode(PICTURE, LIMITS, "image")
        (child,) = set(children()) - before
        assert not {"LOOKONCE_STORE", "HF_TOKEN"} & child.environ().keys()
        assert secret.name not in {one.path for one in child.open_files()}
    assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_AS)[0] == LIMITS.memory


def test_a_process_ends_with_the_server():
    code = (
        "import asyncio, os, signal, sys; from lookonce_server.images.decode import *\n"
        "kept = DecodeProcesses(); asyncio.run(kept.decode(sys.stdin.buffer.read(), ImageLimits(), ''))\n"
        "import psutil; print(psutil.Process().children()[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], input=PICTURE, stdout=subprocess.PIPE, check=False)
    pid = int(killed.stdout)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_starts_light():
    code = "import sys, json; import lookonce_server.images.decode.worker; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=dict(os.environ))
    assert not {"torch", "numpy", "fastapi", "transformers", "httpx2"} & set(json.loads(run.stdout))


async def test_outcomes_are_counted(hasty):
    metrics = Metrics()
    images = Images(ImageLimits(), processes=hasty, metrics=metrics)
    await images.decode(ImageBytes(PICTURE, "image"))
    for data in (b"pixels", ENDLESS):
        with pytest.raises(InvalidImageError):
            await images.decode(ImageBytes(data, "image"))
    found = metrics.registry.get_sample_value
    outcomes = {o: found("lookonce_image_decodes_total", {"outcome": o}) for o in ("decoded", "refused", "timeout")}
    assert outcomes == {"decoded": 1, "refused": 1, "timeout": 1}
    assert found("lookonce_image_decode_duration_seconds_count") == 3


async def test_videos_and_images_take_turns_in_one_process(processes):
    data, before = video_file(moving_pictures(31)), set(children())
    for _ in range(2):
        video = await processes.decode_video(data, VideoLimits(), FrameSampling(fps=1), "")
        assert [number_of(frame) for frame in video.frames] == [0, 10, 20, 30]
        assert video.times == (0, 1, 2, 3)
        assert (await processes.decode(PICTURE, LIMITS, "")).size == (4, 3)
        with pytest.raises(InvalidImageError, match="The video is damaged") as error:
            await processes.decode_video(data[:200], VideoLimits(), FrameSampling(), "here")
        assert error.value.param == "here"
    (process,) = set(children()) - before
    assert process.num_threads() == 1  # FFmpeg's own threads would be more


async def test_a_video_that_hangs_is_ended_too(hasty):
    with pytest.raises(DecodeTimeoutError, match="The video takes longer than 2 seconds to decode"):
        await hasty.decode_video(join_pictures([ENDLESS]), VideoLimits(frame=LIMITS), FrameSampling(), "")


def test_ffmpeg_is_loaded_only_where_a_video_is_decoded():
    code = "import sys, lookonce_server.images.decode.worker; sys.exit('av' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

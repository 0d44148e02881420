"""Decode images and videos in processes of their own: the server's side."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from PIL import Image

from lookonce_server.engines.visuals import Video
from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.frames import Frames, FrameSampling
from lookonce_server.images.decode.limits import ImageLimits, VideoLimits
from lookonce_server.images.decode.protocol import REPLY, TIME, Options, VideoOptions, noun_of, pack_request

_log = logging.getLogger(__name__)
# The part of the environment that a process needs; the rest has secrets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")

_MAX_TEXT = 4096  # bytes, of a refusal


class DecodeTimeoutError(InvalidImageError):
    """Decoding took too long, and its process was killed."""


class DecodeCrashError(InvalidImageError):
    """The process that decoded the image has ended."""


class DecodeProcesses:
    """Decode images and videos in processes, started when needed and killed when slow.

    Args:
        count: number of them decoded at a time; others wait.
        timeout: seconds that decoding one may take, waiting not included.
    """

    def __init__(self, count: int = 2, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._idle: list[_Process] = []
        self._threads = ThreadPoolExecutor(count, "decode")  # one for each process at work: they wait for its replies

    async def decode(self, data: bytes, limits: ImageLimits, param: str) -> Image.Image:
        """See `decode_image`.

        Raises:
            InvalidImageError: as `decode_image` does.
            DecodeTimeoutError, DecodeCrashError: and these.
        """
        frames = await self._run(data, limits, param)
        return frames.pictures[0]

    async def decode_video(self, data: bytes, limits: VideoLimits, sampling: FrameSampling, param: str) -> Video:
        """See `images.decode.video.decode_video`.

        Raises:
            InvalidImageError: as it does.
            DecodeTimeoutError, DecodeCrashError: and these.
        """
        frames = await self._run(data, VideoOptions(limits, sampling), param)
        return Video(tuple(frames.pictures), tuple(frames.times))

    def close(self) -> None:
        """End the processes after the images that are being decoded."""
        self._threads.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().end()

    async def _run(self, data: bytes, options: Options, param: str) -> Frames:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, options, param)

    def _decode(self, data: bytes, options: Options, param: str) -> Frames:
        process = self._take()
        try:
            decoded = process.decode(data, options, self._timeout, param)
        except (DecodeTimeoutError, DecodeCrashError) as error:
            process.end()
            kind, code = noun_of(options), process.exit_code
            _log.warning("%s not decoded: %s (%d bytes; exit code %s)", kind, error, len(data), code)
            raise
        self._idle.append(process)
        if isinstance(decoded, str):
            raise InvalidImageError(decoded, param=param)
        return decoded

    def _take(self) -> "_Process":
        while self._idle:
            process = self._idle.pop()
            if process.exit_code is None:
                return process
            process.end()
        return _Process()


class _Process:
    """One process, used by one thread at a time."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "lookonce_server.images.decode.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C in a terminal is the server's affair; this one ends with its input
        )
        self.end = weakref.finalize(self, _end, self._popen)

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def decode(self, data: bytes, options: Options, timeout: float, param: str) -> Frames | str:
        """Return the pictures, or the reason of a refusal.

        After any error the process cannot be used again."""
        timed_out = threading.Event()
        watch = threading.Timer(timeout, self._kill, [timed_out])
        watch.start()
        noun = noun_of(options)
        try:
            return self._exchange(data, options)
        except (OSError, EOFError):
            if timed_out.is_set():
                raise DecodeTimeoutError(
                    f"The {noun} takes longer than {timeout:g} seconds to decode.", param=param
                ) from None
            raise DecodeCrashError(f"The {noun} cannot be decoded: its decoder failed.", param=param) from None
        finally:
            watch.cancel()
            watch.join()

    def _exchange(self, data: bytes, options: Options) -> Frames | str:
        requests, replies = self._popen.stdin, self._popen.stdout
        assert requests is not None
        assert replies is not None
        requests.write(pack_request(options, len(data)))
        requests.write(data)
        requests.flush()
        width, height, count, length = REPLY.unpack(_read(replies, REPLY.size))
        # The process has met strangers' bytes, so its reply is checked.
        if not _is_possible(width, height, count, length, options):
            raise EOFError
        if not count:
            return _read(replies, length).decode("utf-8", "replace")
        times = [TIME.unpack(_read(replies, TIME.size))[0] for _ in range(count)]
        size = (width, height)
        pictures = [Image.frombytes("RGB", size, _read(replies, 3 * width * height)) for _ in range(count)]
        return Frames(pictures, times)

    def _kill(self, timed_out: threading.Event) -> None:
        timed_out.set()
        self._popen.kill()


def _is_possible(width: int, height: int, count: int, length: int, options: Options) -> bool:
    """Tell whether a reply's head is one that these options allow."""
    if not count:
        return length <= _MAX_TEXT
    if isinstance(options, VideoOptions):
        most, max_pixels = options.sampling.max_frames, options.limits.max_chosen_pixels
    else:
        most, max_pixels = 1, options.max_pixels
    fits = 1 <= count <= most and 0 < width * height * count <= max_pixels
    return fits and length == count * (TIME.size + 3 * width * height)


def _read(replies: IO[bytes], length: int) -> bytes:
    """Read so many bytes; raises EOFError if there are fewer."""
    data = replies.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # a request that was not sent to its end
            pipe.close()

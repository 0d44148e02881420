"""Decode images in processes of their own: the server's side."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple

from PIL import Image

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.limits import ImageLimits
from lookonce_server.images.decode.protocol import REPLY, REQUEST

_log = logging.getLogger(__name__)
# The part of the environment that a process needs; the rest has secrets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")

_MAX_TEXT = 4096  # bytes, of a refusal


class DecodeTimeoutError(InvalidImageError):
    """Decoding took too long, and its process was killed."""


class DecodeCrashError(InvalidImageError):
    """The process that decoded the image has ended."""


class DecodeProcesses:
    """Decode images in processes, started when needed and killed when slow.

    Args:
        count: number of images decoded at a time; others wait.
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
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._decode, data, limits, param)

    def close(self) -> None:
        """End the processes after the images that are being decoded."""
        self._threads.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().end()

    def _decode(self, data: bytes, limits: ImageLimits, param: str) -> Image.Image:
        process = self._take()
        try:
            decoded = process.decode(data, limits, self._timeout, param)
        except (DecodeTimeoutError, DecodeCrashError) as error:
            process.end()
            _log.warning("an image was not decoded: %s (%d bytes; exit code %s)", error, len(data), process.exit_code)
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

    def decode(self, data: bytes, limits: ImageLimits, timeout: float, param: str) -> Image.Image | str:
        """Return the picture, or the reason of a refusal.

        After any error the process cannot be used again."""
        timed_out = threading.Event()
        watch = threading.Timer(timeout, self._kill, [timed_out])
        watch.start()
        try:
            return self._exchange(data, limits)
        except (OSError, EOFError):
            if timed_out.is_set():
                raise DecodeTimeoutError(
                    f"The image takes longer than {timeout:g} seconds to decode.", param=param
                ) from None
            raise DecodeCrashError("The image cannot be decoded: its decoder failed.", param=param) from None
        finally:
            watch.cancel()
            watch.join()

    def _exchange(self, data: bytes, limits: ImageLimits) -> Image.Image | str:
        requests, replies = self._popen.stdin, self._popen.stdout
        assert requests is not None
        assert replies is not None
        requests.write(REQUEST.pack(*astuple(limits), len(data)))
        requests.write(data)
        requests.flush()
        header = replies.read(REPLY.size)
        if len(header) < REPLY.size:
            raise EOFError
        width, height, length = REPLY.unpack(header)
        # The process has met strangers' bytes, so its reply is checked.
        if width * height > limits.max_pixels or length != (3 * width * height or min(length, _MAX_TEXT)):
            raise EOFError
        payload = replies.read(length)
        if len(payload) < length:
            raise EOFError
        return Image.frombytes("RGB", (width, height), payload) if width else payload.decode("utf-8", "replace")

    def _kill(self, timed_out: threading.Event) -> None:
        timed_out.set()
        self._popen.kill()


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # a request that was not sent to its end
            pipe.close()

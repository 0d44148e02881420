"""Decode one image or video after another, in a process of its own.

It reads requests on its standard input and replies on its standard output until that input ends. Strangers' bytes are
decoded in here so that a decoder that hangs, takes all memory or is broken into costs this process alone: it can be
killed, has little memory, may write no files, and has none of the server's secrets.
"""

import os
import resource
import sys
from typing import BinaryIO

from PIL import AvifImagePlugin

from lookonce_server.errors import InvalidImageError
from lookonce_server.images.decode.decoder import decode_image
from lookonce_server.images.decode.frames import Frames
from lookonce_server.images.decode.protocol import (
    REPLY,
    REQUEST,
    TIME,
    Options,
    VideoOptions,
    noun_of,
    options_size,
    unpack_options,
)
from lookonce_server.images.decode.video import decode_video


def main() -> None:
    """Decode one request after another, until the input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    _restrict_process()
    os.dup2(2, 1)  # a library's prints must not be replies
    while header := requests.read(REQUEST.size):
        is_video, length = REQUEST.unpack(header)
        options = unpack_options(requests.read(options_size(is_video)))
        _reply(replies, requests.read(length), options)


def _restrict_process() -> None:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one for each core of a large machine would need much address space
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # pipes are no files
    # Decoders would fill the server's log with remarks on strangers' files.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _reply(replies: BinaryIO, data: bytes, options: Options) -> None:
    memory = options.limits.memory if isinstance(options, VideoOptions) else options.memory
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
    try:
        frames = _decode(data, options)
        size = (*frames.pictures[0].size, len(frames.pictures))
        parts = [TIME.pack(time) for time in frames.times] + [picture.tobytes() for picture in frames.pictures]
    except InvalidImageError as error:
        size, parts = (0, 0, 0), [str(error).encode("utf-8", "replace")]
    except MemoryError:
        size, parts = (0, 0, 0), [f"The {noun_of(options)} needs too much memory to decode.".encode()]
    replies.write(REPLY.pack(*size, sum(map(len, parts))))
    replies.writelines(parts)
    replies.flush()


def _decode(data: bytes, options: Options) -> Frames:
    if isinstance(options, VideoOptions):
        return decode_video(data, options.limits, options.sampling, "")
    return Frames([decode_image(data, options, "")], [0.0])


if __name__ == "__main__":
    main()

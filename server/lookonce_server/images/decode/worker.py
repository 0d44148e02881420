"""Decode one image after another, in a process of its own.

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
from lookonce_server.images.decode.limits import ImageLimits
from lookonce_server.images.decode.protocol import REPLY, REQUEST


def main() -> None:
    """Decode one request after another, until the input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    _restrict_process()
    os.dup2(2, 1)  # a library's prints must not be replies
    while header := requests.read(REQUEST.size):
        *limits, length = REQUEST.unpack(header)
        _reply(replies, requests.read(length), ImageLimits(*limits))


def _restrict_process() -> None:
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one for each core of a large machine would need much address space
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # pipes are no files
    # Decoders would fill the server's log with remarks on strangers' files.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _reply(replies: BinaryIO, data: bytes, limits: ImageLimits) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, resource.RLIM_INFINITY))
    try:
        image = decode_image(data, limits, "")
        size, payload = image.size, image.tobytes()
    except InvalidImageError as error:
        size, payload = (0, 0), str(error).encode("utf-8", "replace")
    except MemoryError:
        size, payload = (0, 0), b"The image needs too much memory to decode."
    replies.write(REPLY.pack(*size, len(payload)))
    replies.write(payload)
    replies.flush()


if __name__ == "__main__":
    main()

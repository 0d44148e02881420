"""What many requests leave behind in the server's process: memory and file descriptors.

python -m tests.attacks.endurance --images 2500 --streams 1500
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from ..support.http_requests import question_about
from ..support.pictures import picture_url
from ..support.server_process import LookonceServer
from .raw import RawConnection, chat, post

CHAT = "/v1/chat/completions"
STORE_BYTES = "4MiB"  # of the memory store: full after some 200 contexts, so that what still grows is no context


class Held(NamedTuple):
    """What the server's process holds."""

    requests: int  # so far
    rss: int  # bytes
    descriptors: int


def held(server: LookonceServer, requests: int) -> Held:
    """Measure the server's process."""
    process = psutil.Process(server.pid)
    return Held(requests, process.memory_info().rss, process.num_fds())


def ask_about_images(server: LookonceServer, count: int, every: int) -> Iterator[Held]:
    """Ask about so many images that the server has never met; measure every so often, and at the end.

    Each is described before it is answered, or the describe passes would fill the queue.
    """
    options = {"max_tokens": 2, "lookonce": {"on_miss": "compress"}}
    with server.http() as client:
        for asked in range(1, count + 1):
            answer = client.post(CHAT, json=question_about(picture_url(10_000_000 + asked), **options))
            assert answer.status_code == 200, answer.text
            if asked % every == 0 or asked == count:
                yield held(server, asked)


def cut_streams(server: LookonceServer, count: int, every: int) -> Iterator[Held]:
    """Begin so many streams and leave each after its first line; measure once they are gone."""
    for cut in range(1, count + 1):
        with RawConnection(server.url) as connection:
            connection.send(post(CHAT, chat(stream=True, max_tokens=200, logit_bias={"2": -100})))
            assert connection.status_line().startswith("HTTP/1.1 200")
        if cut % every == 0 or cut == count:
            server.wait_for("queue_depth", 0)
            yield held(server, cut)


def main() -> None:
    """Print what is held as the requests go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2500)
    parser.add_argument("--streams", type=int, default=1500)
    wanted = parser.parse_args()
    with LookonceServer("--store", f"memory://?max_bytes={STORE_BYTES}") as server:
        for name, measured in (
            ("images", ask_about_images(server, wanted.images, 250)),
            ("streams", cut_streams(server, wanted.streams, 250)),
        ):
            for requests, rss, descriptors in measured:
                print(f"{name} {requests}: {rss / 1e6:.0f} MB, {descriptors} descriptors", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

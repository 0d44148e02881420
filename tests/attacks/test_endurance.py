"""What many requests leave behind: nothing. `python -m tests.attacks.endurance` does more of the same."""

from collections.abc import Iterator

import pytest

from ..support.server_process import LookonceServer
from .endurance import ask_about_images

SLACK = 40_000_000  # bytes: allocators keep some; a context here has 18 kB, its picture 38 kB, its full KV cache 3 MB


@pytest.fixture(scope="module")
def server() -> Iterator[LookonceServer]:
    with LookonceServer("--store", "memory://?max_bytes=1MiB") as running:  # some 50 contexts
        yield running


def test_images_that_were_asked_about_leave_no_memory_behind(server):
    measured = list(ask_about_images(server, 150, 75))
    assert measured[-1].rss - measured[0].rss < SLACK

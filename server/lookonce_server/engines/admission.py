"""Bound the passes of an engine: answers and describe passes, each alone.

So a flood of new images, each with a describe pass, leaves the places of questions free.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lookonce_server.errors import OverloadedError


class Admission:
    """Count the passes that wait or run, and refuse more than `max_queue`.

    Answers and describe passes are counted each by themselves. It is used from one event loop.

    Args:
        max_queue: passes of each kind.
    """

    def __init__(self, max_queue: int) -> None:
        self.max_queue = max_queue
        self._admitted = {False: 0, True: 0}  # by whether they are describe passes

    @property
    def depth(self) -> int:
        """Return the passes that wait or run and are not cancelled, of both kinds."""
        return sum(self._admitted.values())

    @contextmanager
    def admit(self, *, background: bool = False) -> Iterator[None]:
        """Hold a place for a pass inside the block.

        Args:
            background: whether it is a describe pass.

        Raises:
            OverloadedError: all places are taken.
        """
        count = self._admitted[background]
        if count >= self.max_queue:
            kind = "describe passes" if background else "requests"
            raise OverloadedError(f"{count} {kind} are in work already, as many as this server takes on.")
        self._admitted[background] += 1
        try:
            yield
        finally:
            self._admitted[background] -= 1

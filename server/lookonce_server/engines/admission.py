"""Bound the passes of an engine: answers and describe passes, each alone.

So a flood of new images, each with a describe pass, leaves the places of questions free.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from lookonce_server.errors import OverloadedError


class Place:
    """A pass's place: it waits until it is told to run."""

    def __init__(self) -> None:
        self.is_running = False

    def run(self) -> None:
        """Say that the pass runs; again does nothing."""
        self.is_running = True


class Admission:
    """Count the passes that wait or run, and refuse more than `max_queue`.

    Answers and describe passes are counted each by themselves. It is used from one event loop.

    Args:
        max_queue: passes of each kind.
    """

    def __init__(self, max_queue: int) -> None:
        self.max_queue = max_queue
        self._places: dict[bool, set[Place]] = {False: set(), True: set()}  # by whether they are describe passes

    @property
    def depth(self) -> int:
        """Return the passes that wait or run and are not cancelled, of both kinds."""
        return sum(map(len, self._places.values()))

    def running(self, *, background: bool = False) -> int:
        """Return how many of one kind run."""
        return sum(place.is_running for place in self._places[background])

    def waiting(self, *, background: bool = False) -> int:
        """Return how many of one kind wait."""
        return len(self._places[background]) - self.running(background=background)

    @contextmanager
    def admit(self, *, background: bool = False) -> Iterator[Place]:
        """Hold a place for a pass inside the block.

        Args:
            background: whether it is a describe pass.

        Raises:
            OverloadedError: all places are taken.
        """
        count = len(self._places[background])
        if count >= self.max_queue:
            kind = "describe passes" if background else "requests"
            raise OverloadedError(f"{count} {kind} are in work already, as many as this server takes on.")
        place = Place()
        self._places[background].add(place)
        try:
            yield place
        finally:
            self._places[background].remove(place)

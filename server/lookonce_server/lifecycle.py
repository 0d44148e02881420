"""The life of the server: at work, or ending."""

from dataclasses import dataclass
from typing import Protocol

from lookonce_server.errors import ShuttingDownError


class Background(Protocol):
    """Work that no request waits for."""

    def end(self) -> None:
        """Begin nothing more, and drop what has hardly begun."""

    @property
    def is_busy(self) -> bool:
        """Whether there is work under way, which is worth waiting for."""


@dataclass(slots=True)
class Lifecycle:
    """Where the server is in its life: at work, or ending.

    Attributes:
        background: what may go on behind requests.
        failure: why it ends, where that is no wish of whoever runs it.
    """

    background: Background | None = None
    ending: bool = False
    failure: str | None = None

    def end(self) -> None:
        """Take nothing more on; what was begun goes on."""
        self.ending = True
        if self.background is not None:
            self.background.end()

    @property
    def is_busy(self) -> bool:
        """Whether work goes on behind requests."""
        return self.background is not None and self.background.is_busy

    def check(self) -> None:
        """Return if new requests are taken on.

        Raises:
            ShuttingDownError: none are.
        """
        if self.failure:
            raise ShuttingDownError(self.failure)
        if self.ending:
            raise ShuttingDownError("The server is shutting down; ask another one, or again in a moment.")

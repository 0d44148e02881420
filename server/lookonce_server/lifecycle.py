"""The life of the server: serving, or ending."""

from dataclasses import dataclass
from typing import Protocol

from lookonce_server.errors import ShuttingDownError


class Background(Protocol):
    """Work that no request waits for."""

    def end(self) -> None:
        """Start nothing more, and drop what has hardly begun."""

    @property
    def is_busy(self) -> bool:
        """Whether there is work under way, which is worth waiting for."""


@dataclass(slots=True)
class Lifecycle:
    """Tell whether the server takes new requests, or why it does not.

    Attributes:
        background: work that no request waits for.
        ending: whether it takes no new requests.
        failure: why it ends, unless it was told to.
    """

    background: Background | None = None
    ending: bool = False
    failure: str | None = None

    def end(self) -> None:
        """Take no new requests; what was begun goes on."""
        self.ending = True
        if self.background is not None:
            self.background.end()

    @property
    def is_busy(self) -> bool:
        """Whether work goes on behind requests."""
        return self.background is not None and self.background.is_busy

    def check(self) -> None:
        """Refuse a new request if the server ends.

        Raises:
            ShuttingDownError: it does.
        """
        if self.failure:
            raise ShuttingDownError(self.failure)
        if self.ending:
            raise ShuttingDownError("The server is shutting down; ask another one, or again in a moment.")

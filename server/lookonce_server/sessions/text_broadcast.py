"""Send the text of a describe pass to all that wait for it."""

import asyncio
from collections.abc import AsyncIterator


class TextBroadcast:
    """Send the text of one describe pass to any number of subscribers.

    Invariant: each subscriber gets the same text in all, whenever it subscribes, without the spaces around it.

    Attributes:
        has_started: whether the pass runs.
    """

    def __init__(self) -> None:
        self.has_started = False
        self._closed = False
        self._text = ""
        self._changed = asyncio.Event()  # a new one after each change

    def publish(self, text: str) -> None:
        """Add to the text; the first call, perhaps of "", marks the start."""
        self.has_started = True
        self._text += text
        self._wake()

    def close(self) -> None:
        """End the text."""
        self._closed = True
        self._wake()

    async def subscribe(self) -> AsyncIterator[str]:
        """Yield the text as it comes, first all of it so far, which may be "".

        Of a pass that never starts nothing is yielded, not even "".
        """
        sent = -1
        while True:
            changed, text = self._changed, self._text.strip()
            if self.has_started and len(text) > sent:
                yield text[max(0, sent) :]
                sent = len(text)
            elif self._closed:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

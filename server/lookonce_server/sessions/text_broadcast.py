"""A description on its way: told by the one pass that makes it, followed by all who wait for it."""

import asyncio
from collections.abc import AsyncIterator


class TextBroadcast:
    """What a describe pass has said so far.

    Invariant: whoever follows it, from whenever on, gets the same text in all, without the spaces around it.
    """

    def __init__(self) -> None:
        self.begun = False
        self._ended = False
        self._said = ""
        self._changed = asyncio.Event()  # a new one after each change

    def hear(self, text: str) -> None:
        """The pass has begun, and has said this much more."""
        self.begun = True
        self._said += text
        self._tell()

    def end(self) -> None:
        """Nothing more will be said."""
        self._ended = True
        self._tell()

    async def follow(self) -> AsyncIterator[str]:
        """The text as it comes, up to the end; first all that was said before, which may be nothing yet.

        A pass that never begins says nothing at all, not even that.
        """
        told = -1
        while True:
            changed, text = self._changed, self._said.strip()
            if self.begun and len(text) > told:
                yield text[max(0, told) :]
                told = len(text)
            elif self._ended:
                return
            else:
                await changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

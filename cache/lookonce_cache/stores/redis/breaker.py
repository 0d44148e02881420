"""Giving up a server that does not answer, and finding out when it does again."""

import asyncio
import random
from collections.abc import Awaitable, Callable

FIRST_PAUSE = 0.1  # seconds before the first probe
LONGEST_PAUSE = 2.0  # seconds between two probes in the end, and so about how late recovery is noticed


class Breaker:
    """A circuit breaker. While it is open, one background task probes, so that no request ever pays for a probe.

    Args:
        probe: returns if the server works, and raises if it does not. It limits its own time.
        changed: told that the breaker has opened (True) or closed.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], changed: Callable[[bool], None]) -> None:
        self.reason = ""
        self._probe = probe
        self._changed = changed
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the server is given up for now."""
        return self._probing is not None

    def open(self, reason: str) -> None:
        """Give the server up until a probe finds it working; nothing if it is given up already."""
        if self._probing is None:
            self.reason = reason
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_it_works())
            self._changed(True)

    def close(self) -> None:
        """Use the server again; nothing if it is in use."""
        if self._probing is None:
            return
        probing, self._probing = self._probing, None
        if probing is not asyncio.current_task():
            probing.cancel()
        self._changed(False)

    async def stop(self) -> None:
        """End probing, for good. The breaker stays as it is."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _probe_until_it_works(self) -> None:
        pause = FIRST_PAUSE
        while True:
            # Jitter, so that many servers do not all come back at one moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            try:
                await self._probe()
            except Exception:  # whatever it was, the server does not work
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return self.close()

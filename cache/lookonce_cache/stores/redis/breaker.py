"""Stop using a server that does not answer, and probe until it does."""

import asyncio
import random
from collections.abc import Awaitable, Callable

MIN_PAUSE = 0.1  # seconds before the first probe
MAX_PAUSE = 2.0  # seconds between two probes, and so about the delay until recovery is noticed


class Breaker:
    """Break the circuit to one server.

    While it is open, a background task probes the server, so that no request waits for a probe.

    Args:
        probe: returns if the server works, and raises if it does not. It limits its own time.
        on_change: called when the breaker has opened (True) or closed.
    """

    def __init__(self, probe: Callable[[], Awaitable[None]], on_change: Callable[[bool], None]) -> None:
        self.reason = ""
        self._probe = probe
        self._on_change = on_change
        self._probing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the server is not to be used for now."""
        return self._probing is not None

    def open(self, reason: str) -> None:
        """Stop using the server until a probe succeeds."""
        if self._probing is None:
            self.reason = reason
            self._probing = asyncio.get_running_loop().create_task(self._probe_until_it_works())
            self._on_change(True)

    def close(self) -> None:
        """Use the server again."""
        if self._probing is None:
            return
        probing, self._probing = self._probing, None
        if probing is not asyncio.current_task():
            probing.cancel()
        self._on_change(False)

    async def stop(self) -> None:
        """Stop probing for good; the breaker stays as it is."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait([self._probing])

    async def _probe_until_it_works(self) -> None:
        pause = MIN_PAUSE
        while True:
            # Jitter, so that many clients do not come back at one moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            try:
                await self._probe()
            except Exception:  # any error means that the server does not work
                pause = min(2 * pause, MAX_PAUSE)
            else:
                return self.close()

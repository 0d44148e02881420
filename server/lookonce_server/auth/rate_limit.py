"""How much a tenant, and all of them together, may ask at once and a minute. Counted in this process alone."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lookonce_server.errors import ConcurrencyLimitError, OverloadedError, RateLimitError

_ROUNDING = 1e-6  # of a token: what many small fillings may lack


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may ask; None: as much as it likes.

    Attributes:
        max_concurrent: requests under way at once.
        requests_per_minute: on average; as many may come at once after a minute's silence.
    """

    max_concurrent: int | None = None
    requests_per_minute: int | None = None


class RateLimiter:
    """Lets requests in, one by one, as long as there is room.

    Args:
        max_requests: under way at once, of all tenants.
        default: limits of a tenant that has none of its own.
        limits: those of tenants that have.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        max_requests: int,
        default: TenantLimits,
        limits: Mapping[str, TenantLimits],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_requests = max_requests
        self._default = default
        self._limits = limits
        self._clock = clock
        self._lanes: dict[str, TenantBucket] = {}
        self._inside = 0

    def lane(self, tenant: str) -> "TenantBucket":
        """A tenant's own; tenants are those of the settings, so there are never many."""
        if tenant not in self._lanes:
            self._lanes[tenant] = TenantBucket(self._limits.get(tenant, self._default), self._clock)
        return self._lanes[tenant]

    def enter(self, tenant: str) -> None:
        """Take a request in; `leave` when it has ended. One that is refused counts against nothing.

        Raises:
            OverloadedError: the server has no room.
            ConcurrencyLimitError: the tenant has none.
            RateLimitError: the tenant has asked too often.
        """
        if self._inside >= self._max_requests:
            raise OverloadedError(f"{self._inside} requests are under way, as many as this server takes on.")
        self.lane(tenant).enter()
        self._inside += 1

    def leave(self, tenant: str) -> None:
        """A request that was taken in has ended, however it did."""
        self._inside -= 1
        self.lane(tenant).leave()


class Slot:
    """One request's place; giving it back twice is no harm.

    Args:
        turnstile: that lets it in.
        tenant: whose request it is.
    """

    def __init__(self, turnstile: RateLimiter, tenant: str) -> None:
        self._turnstile = turnstile
        self._tenant = tenant
        self._taken = False

    def take(self) -> None:
        """See `RateLimiter.enter`."""
        self._turnstile.enter(self._tenant)
        self._taken = True

    def give_back(self) -> None:
        """See `RateLimiter.leave`."""
        if self._taken:
            self._taken = False
            self._turnstile.leave(self._tenant)


class TenantBucket:
    """One tenant's requests under way, and a token bucket: full after a minute's silence, a request takes one.

    Args:
        limits: the tenant's.
        clock: monotonic seconds.
    """

    def __init__(self, limits: TenantLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._inside = 0
        self._rate = (limits.requests_per_minute or 0) / 60  # tokens a second
        self._tokens = float(limits.requests_per_minute or 0)
        self._filled_at = clock()

    def enter(self) -> None:
        """See `RateLimiter.enter`."""
        most = self._limits.max_concurrent
        if most is not None and self._inside >= most:
            raise ConcurrencyLimitError(f"{self._inside} of your requests are under way; {most} may be at once.")
        if self._limits.requests_per_minute is not None:
            self._take(self._limits.requests_per_minute)
        self._inside += 1

    def leave(self) -> None:
        """See `RateLimiter.leave`."""
        self._inside -= 1

    def headers(self) -> dict[str, str]:
        """OpenAI's, of the rate limit as it is now; none where there is no such limit."""
        most = self._limits.requests_per_minute
        if most is None:
            return {}
        self._fill(most)
        return {
            "x-ratelimit-limit-requests": str(most),
            "x-ratelimit-remaining-requests": str(math.floor(self._tokens + _ROUNDING)),
            "x-ratelimit-reset-requests": f"{(most - self._tokens) / self._rate:.3f}s",  # until all are there again
        }

    def _take(self, most: int) -> None:
        self._fill(most)
        if self._tokens < 1 - _ROUNDING:
            wait = (1 - _ROUNDING - self._tokens) / self._rate
            raise RateLimitError(
                f"You may ask {most} times a minute; ask again in {wait:.1f} s.", retry_after=math.ceil(wait)
            )
        self._tokens = max(0.0, self._tokens - 1)

    def _fill(self, most: int) -> None:
        now = self._clock()
        self._tokens = min(float(most), self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now

"""Limit the requests of each tenant, and of all, in this process."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lookonce_server.errors import ConcurrencyLimitError, OverloadedError, RateLimitError

_ROUNDING = 1e-6  # of a token: what many small refills may lack


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of one tenant; None sets no limit.

    Attributes:
        max_concurrent: requests under way at once.
        requests_per_minute: on average; as many may come at once after a minute's silence.
    """

    max_concurrent: int | None = None
    requests_per_minute: int | None = None


class RateLimiter:
    """Admit requests as long as there is room.

    Args:
        max_requests: requests of all tenants under way at once.
        default: limits of a tenant that has none of its own.
        limits: limits by tenant, of those that have their own.
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
        self._buckets: dict[str, TenantBucket] = {}
        self._active = 0

    def bucket(self, tenant: str) -> "TenantBucket":
        """Return a tenant's bucket; tenants are few, those of the settings."""
        if tenant not in self._buckets:
            self._buckets[tenant] = TenantBucket(self._limits.get(tenant, self._default), self._clock)
        return self._buckets[tenant]

    def acquire(self, tenant: str) -> None:
        """Admit a request until `release`; a refused one counts against nothing.

        Raises:
            OverloadedError: the server has no room.
            ConcurrencyLimitError: the tenant has as many requests under way as it may have.
            RateLimitError: the tenant has asked too often.
        """
        if self._active >= self._max_requests:
            raise OverloadedError(f"{self._active} requests are under way, as many as this server takes on.")
        self.bucket(tenant).acquire()
        self._active += 1

    def release(self, tenant: str) -> None:
        """End a request that was admitted."""
        self._active -= 1
        self.bucket(tenant).release()


class Slot:
    """One request's place in the limits; it may be released more than once.

    Args:
        limiter: admits the request.
        tenant: sends the request.
    """

    def __init__(self, limiter: RateLimiter, tenant: str) -> None:
        self._limiter = limiter
        self._tenant = tenant
        self._held = False

    def acquire(self) -> None:
        """See `RateLimiter.acquire`."""
        self._limiter.acquire(self._tenant)
        self._held = True

    def release(self) -> None:
        """See `RateLimiter.release`."""
        if self._held:
            self._held = False
            self._limiter.release(self._tenant)


class TenantBucket:
    """A tenant's requests under way, and its token bucket.

    A request takes a token; the bucket is full after a minute's silence.

    Args:
        limits: the tenant's.
        clock: monotonic seconds.
    """

    def __init__(self, limits: TenantLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._active = 0
        self._rate = (limits.requests_per_minute or 0) / 60  # tokens a second
        self._tokens = float(limits.requests_per_minute or 0)
        self._filled_at = clock()

    def acquire(self) -> None:
        """See `RateLimiter.acquire`."""
        limit = self._limits.max_concurrent
        if limit is not None and self._active >= limit:
            raise ConcurrencyLimitError(f"{self._active} of your requests are under way; {limit} may be at once.")
        if self._limits.requests_per_minute is not None:
            self._take_token(self._limits.requests_per_minute)
        self._active += 1

    def release(self) -> None:
        """See `RateLimiter.release`."""
        self._active -= 1

    def headers(self) -> dict[str, str]:
        """Return OpenAI's headers for the rate limit; none without a limit."""
        limit = self._limits.requests_per_minute
        if limit is None:
            return {}
        self._fill(limit)
        return {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(math.floor(self._tokens + _ROUNDING)),
            "x-ratelimit-reset-requests": f"{(limit - self._tokens) / self._rate:.3f}s",  # until the bucket is full
        }

    def _take_token(self, limit: int) -> None:
        self._fill(limit)
        if self._tokens < 1 - _ROUNDING:
            wait = (1 - _ROUNDING - self._tokens) / self._rate
            raise RateLimitError(
                f"You may ask {limit} times a minute; ask again in {wait:.1f} s.", retry_after=math.ceil(wait)
            )
        self._tokens = max(0.0, self._tokens - 1)

    def _fill(self, limit: int) -> None:
        now = self._clock()
        self._tokens = min(float(limit), self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now

"""How much may be asked: places are taken and given back, and `retry_after` is true to the second."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lookonce_server.auth.rate_limit import RateLimiter, TenantLimits
from lookonce_server.errors import ConcurrencyLimitError, OverloadedError, RateLimitError

NONE = TenantLimits()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limiter(clock=None, *, max_requests: int = 100, default=NONE, **limits) -> RateLimiter:
    return RateLimiter(max_requests, default, limits, clock or Clock())


def test_without_limits_only_the_whole_is_bounded():
    gate = limiter(max_requests=3)
    for tenant in ("a", "b", "a"):
        gate.acquire(tenant)
    with pytest.raises(OverloadedError, match="3 requests are under way") as raised:
        gate.acquire("c")
    assert raised.value.retry_after == 1
    gate.release("b")
    gate.acquire("c")
    assert gate.bucket("c").headers() == {}


def test_a_tenants_places_are_its_own():
    gate = limiter(default=TenantLimits(max_concurrent=2), big=TenantLimits(max_concurrent=3))
    for tenant in ("a", "a", "b", "big", "big", "big"):
        gate.acquire(tenant)
    for tenant, most in (("a", 2), ("big", 3)):
        with pytest.raises(ConcurrencyLimitError, match=f"{most} of your requests are .*; {most} may be"):
            gate.acquire(tenant)
    gate.acquire("b")
    gate.release("a")
    gate.acquire("a")


def test_one_that_is_refused_takes_no_place_and_no_token():
    gate = limiter(max_requests=2, default=TenantLimits(max_concurrent=1, requests_per_minute=2))
    gate.acquire("a")
    for _ in range(5):
        with pytest.raises(ConcurrencyLimitError):
            gate.acquire("a")
    gate.acquire("b")
    for _ in range(5):
        with pytest.raises(OverloadedError, match="as many as this server takes on"):
            gate.acquire("c")
    gate.release("a")
    gate.acquire("a")  # the second token
    gate.release("a")
    for _ in range(5):
        with pytest.raises(RateLimitError):
            gate.acquire("a")
    gate.acquire("c")


def test_a_minutes_worth_comes_at_once_and_then_one_by_one():
    clock = Clock()
    gate = limiter(clock, default=TenantLimits(requests_per_minute=6))
    for left in range(5, -1, -1):
        gate.acquire("a")
        assert gate.bucket("a").headers()["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(RateLimitError, match=r"You may ask 6 times a minute; ask again in 10\.0 s\.") as raised:
        gate.acquire("a")
    assert raised.value.retry_after == 10
    assert gate.bucket("a").headers() == {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60.000s",
    }
    clock.now += 10
    gate.acquire("a")
    clock.now += 3600
    assert gate.bucket("a").headers()["x-ratelimit-remaining-requests"] == "6"
    assert gate.bucket("a").headers()["x-ratelimit-reset-requests"] == "0.000s"
    gate.acquire("b")  # whose bucket was full all the time


@settings(deadline=None)
@example(60, [0.0] * 60 + [1.0])
@given(st.integers(1, 200), st.lists(st.integers(0, 90 * 64).map(lambda ticks: ticks / 64), max_size=60))
def test_retry_after_is_the_first_whole_second_that_works(most, pauses):
    clock = Clock()
    gate = limiter(clock, default=TenantLimits(requests_per_minute=most))
    let_in = []
    for pause in [*pauses, *[0.0] * (most + 1)]:
        clock.now += pause
        try:
            gate.acquire("a")
        except RateLimitError as error:
            asked = clock.now
            if error.retry_after > 1:
                clock.now = asked + error.retry_after - 1
                with pytest.raises(RateLimitError):
                    gate.acquire("a")
            clock.now = asked + error.retry_after
            gate.acquire("a")
        gate.release("a")
        let_in.append(clock.now)
    # A full bucket, and what flows in meanwhile: never more than twice the limit within a minute.
    assert all(sum(t <= s < t + 60 for s in let_in) <= 2 * most for t in let_in)

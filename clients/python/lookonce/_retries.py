"""When a request is sent again, and after how long.

Every request may be sent twice without harm: asking changes nothing but the store of contexts, and there the same image
makes the same context. So what decides is whether asking again may help:

- the connection was refused, lost, or not made in time: yes; the server may be restarting;
- connected, but no answer within the timeout: no; the server works on it, and the caller's patience is used up;
- 408, 429, 502, 503, 504: yes, these tell of a moment's trouble;
- 500 and every other status: no; the same request would fail the same way.

A stream is covered until its reply begins: after that, pieces have been handed on.
"""

from __future__ import annotations

import random

from ._exceptions import APIConnectionError, APIStatusError, APITimeoutError, LookonceError

DEFAULT_RETRIES = 2
FIRST_SECONDS = 0.5
LONGEST_SECONDS = 8.0
LONGEST_TOLD_SECONDS = 60.0  # a server that wants more is not waited for
_STATUSES = frozenset({408, 429, 502, 503, 504})


def retry_delay(error: LookonceError, retries: int) -> float | None:
    """Seconds to wait before a request is sent again; None where it is not to be.

    The time doubles from retry to retry, and is up to a quarter less by chance, so that clients who failed together do
    not come back together. A server that says when to come back is not asked sooner.

    Args:
        error: what came of the request.
        retries: how many were made before.
    """
    if isinstance(error, APIStatusError):
        if error.status_code not in _STATUSES:
            return None
        told = error.retry_after or 0
    elif isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError):
        told = 0
    else:
        return None
    if told > LONGEST_TOLD_SECONDS:
        return None
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(retries, 10))
    return max(told, longest * random.uniform(0.75, 1))  # noqa: S311 - not for secrets

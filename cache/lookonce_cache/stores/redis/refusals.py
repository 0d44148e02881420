"""Recognise replies with which Redis refuses writes while it serves reads."""

import re
from typing import Any

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

# redis-py strips the code of errors that it has a class for, except of those that come from a script.
_CLASSES = {OutOfMemoryError: "oom", ReadOnlyError: "readonly", NoPermissionError: "noperm"}
_CODE = re.compile(r"(?:^|[\s-])(MISCONF|NOREPLICAS|OOM|READONLY|NOPERM) ")
_SCRIPT_NOPERM = "The user executing the script can't"  # of Redis 7, without a code


def refusal_of(reply: Any) -> str | None:
    """Return the reason for which Redis refuses a write; None for any other reply.

    - misconf: it cannot save its data to disk, and `stop-writes-on-bgsave-error` or its append-only file forbids more;
    - noreplicas: fewer replicas than `min-replicas-to-write` follow it;
    - oom: `maxmemory` is reached, and its policy evicts nothing;
    - readonly: it is a replica;
    - noperm: the user may not.
    """
    if not isinstance(reply, ResponseError):
        return None
    for kind, reason in _CLASSES.items():
        if isinstance(reply, kind):
            return reason
    if _SCRIPT_NOPERM in str(reply):
        return "noperm"
    match = _CODE.search(str(reply))
    return match[1].lower() if match else None

"""What Redis says when it answers, and serves reads, but carries out no writes."""

import re
from typing import Any

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

# redis-py takes the code off those errors that it has a class for, but for those that come out of a script.
_CLASSES = {OutOfMemoryError: "oom", ReadOnlyError: "readonly", NoPermissionError: "noperm"}
_CODE = re.compile(r"(?:^|[\s-])(MISCONF|NOREPLICAS|OOM|READONLY|NOPERM) ")
_NO_RIGHT_IN_SCRIPT = "The user executing the script can't"  # of Redis 7, without a code


def refusal_of(reply: Any) -> str | None:
    """Why Redis does not carry out a write; None for a reply that does not say so.

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
    if _NO_RIGHT_IN_SCRIPT in str(reply):
        return "noperm"
    found = _CODE.search(str(reply))
    return found[1].lower() if found else None

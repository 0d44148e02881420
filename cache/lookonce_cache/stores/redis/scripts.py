"""What must happen in Redis in one step. All keys of a script are in one slot of a cluster."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.topology import Servers


class Script:
    """A Lua script, and the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# A put or lease that is sent again, because its reply was lost with the connection, finds its own work and succeeds.

# What is at the key of a lease, or of the last one: its token, 32 hex digits; '' where there is nothing, or what is not
# ours.
_HOLDER_OF = """
local function holder_of(key)
    local found = redis.pcall('GET', key)
    return type(found) == 'string' and #found == 32 and not string.find(found, '[^0-9a-f]') and found or ''
end
"""

# The new value comes by SET, beside the old one, and is only renamed here: as an argument Lua would copy it twice, and
# hold Redis ten times longer. It is taken under the lease; or where that has merely expired: there is no value, and the
# lease was the last one that was taken, which it is no more once there was a delete. KEYS: value, lease, last lease,
# new value. ARGV: token of the lease, TTL in ms or "", and the new value's last bytes, its checksum, to know it again.
PUT_UNDER_LEASE = Script(
    _HOLDER_OF
    + """
local value, lease, last, new, token, ttl, digest = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3]
local holder = holder_of(lease)
local has_expired = holder == '' and holder_of(last) == token
if holder == token or (has_expired and redis.call('EXISTS', value) == 0) then
    redis.call('RENAME', new, value)
    if ttl == '' then redis.call('PERSIST', value) else redis.call('PEXPIRE', value, ttl) end
    redis.call('DEL', lease, last)
    return 1
end
redis.call('UNLINK', new)
return redis.pcall('GETRANGE', value, -#digest, -1) == digest and 1 or 0
"""
)

# Its reply: 1, or 2 where it took the place of what was no lease, which has no end either; 0 while there is another.
# KEYS: lease, last lease. ARGV: token, ms, ms that it is remembered as the last.
TAKE_LEASE = Script(
    _HOLDER_OF
    + """
local lease, last, token, ms = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local taken = 1
if not redis.call('SET', lease, token, 'NX', 'PX', ms) then
    local holder = holder_of(lease)
    if holder == '' or redis.call('PTTL', lease) < 0 then
        redis.call('SET', lease, token, 'PX', ms)
        taken = 2
    elseif holder ~= token then
        return 0
    end
end
redis.call('SET', last, token, 'PX', ARGV[3])
return taken
"""
)

RENEW_LEASE = Script(
    _HOLDER_OF + "return holder_of(KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
)

# KEYS: lease, last lease.
RELEASE_LEASE = Script(_HOLDER_OF + "return holder_of(KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1], KEYS[2]) or 0")

# What is no index, under an index's name. KEYS: the index.
UNLINK_FOREIGN_INDEX = Script("""
local found = redis.pcall('ZSCORE', KEYS[1], '')
return type(found) == 'table' and string.find(found.err, 'WRONGTYPE') and redis.call('UNLINK', KEYS[1]) or 0
""")

# Of a sorted set: those members whose score is still the given one. ARGV: score, member, score, member, ...
REMOVE_UNCHANGED = Script("""
for i = 1, #ARGV, 2 do
    if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[i + 1]) or 'nan') == tonumber(ARGV[i]) then
        redis.call('ZREM', KEYS[1], ARGV[i + 1])
    end
end
""")


async def run(
    servers: Servers,
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[str | bytes | int],
    *,
    first: Command | None = None,
) -> Any:
    """The script's reply, or the ResponseError in its place. Redis is sent the text only where it does not know it.

    Args:
        servers: where.
        script: what.
        keys: in one slot.
        arguments: the script's.
        first: a command sent before the script, in the same round trip; its error stands in the script's reply's place.
    """
    rest = (len(keys), *keys, *arguments)
    commands = [] if first is None else [first]
    *before, reply = await servers.send(*commands, ("EVALSHA", script.digest, *rest))
    for error in before:
        if isinstance(error, ResponseError):
            return error
    if isinstance(reply, NoScriptError):
        (reply,) = await servers.send(("EVAL", script.text, *rest))
    return reply

"""Run Lua scripts, each of which changes several keys of one slot in one step."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from lookonce_cache.stores.redis.node import Command
from lookonce_cache.stores.redis.topology import Servers


class Script:
    """A Lua script and its digest, by which Redis caches it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# A put or lease that is sent again, because its reply was lost with the connection, finds its own work and succeeds.

# Returns the token at the key of a lease, 32 hex digits; '' if there is none, or a foreign value.
_HOLDER_OF = """
local function holder_of(key)
    local token = redis.pcall('GET', key)
    return type(token) == 'string' and #token == 32 and not string.find(token, '[^0-9a-f]') and token or ''
end
"""

# Puts a value under a lease. The new value comes by SET, beside the old one, and is only renamed here: as an argument
# Lua would copy it twice, and block Redis ten times longer. The lease must hold; or it has merely expired: there is no
# value, and it is the last lease that was taken (a delete removes the last lease). KEYS: value, lease, last lease, new
# value. ARGV: token of the lease, TTL in ms or "", and the checksum at the new value's end, to recognise it.
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

# Takes a lease. Returns 1; 2 if it replaced a foreign value, or a lease that never expires; 0 if another one holds.
# KEYS: lease, last lease. ARGV: token, ms, ms for which it is remembered as the last.
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

# Removes a key of another type under an index's name. KEYS: the index.
UNLINK_FOREIGN_INDEX = Script("""
local reply = redis.pcall('ZSCORE', KEYS[1], '')
return type(reply) == 'table' and string.find(reply.err, 'WRONGTYPE') and redis.call('UNLINK', KEYS[1]) or 0
""")

# Removes members of a sorted set whose score is still the given one. ARGV: score, member, score, member, ...
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
    """Run a script, and send its text only if Redis does not have it.

    Args:
        servers: the servers.
        script: the script.
        keys: its keys, all in one slot.
        arguments: its arguments.
        first: a command to send before the script, in the same round trip.

    Returns:
        The script's reply, or the ResponseError of the script or of `first`.
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

"""What must happen in Redis in one step. All keys of a script are in one slot of a cluster."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from lookonce_cache.redis_node import Command
from lookonce_cache.redis_servers import Servers


class Script:
    """A Lua script, and the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# A put or lease that is sent again, because its reply was lost with the connection, finds its own work and succeeds.

# The new value comes by SET, beside the old one, and is only renamed here: as an argument Lua would copy it twice, and
# hold Redis ten times longer. KEYS: value, lease, new value. ARGV: token of the lease, TTL in ms or "", and the new
# value's last bytes, its checksum, to know it again.
PUT_UNDER_LEASE = Script("""
local value, lease, new, token, ttl, digest = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', lease) == token then
    redis.call('RENAME', new, value)
    if ttl == '' then redis.call('PERSIST', value) else redis.call('PEXPIRE', value, ttl) end
    redis.call('DEL', lease)
    return 1
end
redis.call('UNLINK', new)
return redis.pcall('GETRANGE', value, -#digest, -1) == digest and 1 or 0
""")

TAKE_LEASE = Script("""
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
""")

RENEW_LEASE = Script("""
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0
""")

RELEASE_LEASE = Script("""
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0
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

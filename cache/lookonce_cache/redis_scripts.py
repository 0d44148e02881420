"""What must happen in Redis in one step. All keys of a script are in one slot of a cluster."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

from lookonce_cache.redis_servers import Servers


class Script:
    """A Lua script, and the digest by which Redis knows it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# A put or lease that is sent again, because its reply was lost with the connection, finds its own work and succeeds.
PUT_UNDER_LEASE = Script("""
local value, lease, token, ttl = KEYS[1], KEYS[2], ARGV[1], ARGV[3]
if redis.call('GET', lease) == token then
    if ttl == '' then redis.call('SET', value, ARGV[2]) else redis.call('SET', value, ARGV[2], 'PX', ttl) end
    redis.call('DEL', lease)
    return 1
end
local digest = redis.pcall('GETRANGE', value, -16, -1)
return digest == string.sub(ARGV[2], -16) and 1 or 0
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


async def run(servers: Servers, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
    """The script's reply, or the ResponseError in its place. Redis is sent the text only where it does not know it."""
    rest = (len(keys), *keys, *arguments)
    (reply,) = await servers.send(("EVALSHA", script.digest, *rest))
    if isinstance(reply, NoScriptError):
        (reply,) = await servers.send(("EVAL", script.text, *rest))
    return reply

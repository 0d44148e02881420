"""Read the memory of Redis servers from INFO."""

import asyncio
from collections.abc import Sequence

from lookonce_cache.errors import StoreUnavailableError
from lookonce_cache.stores.base import NodeUsage
from lookonce_cache.stores.redis.node import Node


async def usage_of(nodes: Sequence[Node]) -> list[NodeUsage]:
    """Return the memory of each node, except of those that are away or may not tell."""
    usages = await asyncio.gather(*map(_usage_of, nodes))
    return [usage for usage in usages if usage is not None]


async def _usage_of(node: Node) -> NodeUsage | None:
    try:
        # One section a command: Redis 6.2 takes no more.
        replies = await node.send([("INFO", "memory"), ("INFO", "stats")])
    except StoreUnavailableError:
        return None
    if not all(isinstance(reply, bytes) for reply in replies):  # the user may not ask
        return None
    fields = _parse_info(b"\n".join(replies))
    used, limit, evicted = (fields.get(name) for name in (b"used_memory", b"maxmemory", b"evicted_keys"))
    return None if used is None else NodeUsage("redis", str(node.address), used, limit or None, evicted)


def _parse_info(text: bytes) -> dict[bytes, int]:
    """Return the fields of INFO that are whole numbers."""
    pairs = (line.strip().partition(b":") for line in text.splitlines())
    return {name: int(value) for name, _, value in pairs if value.isdigit()}

"""Send commands to the nodes of a Redis Cluster, and follow its map of slots."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from lookonce_cache.errors import StoreUnavailableError
from lookonce_cache.stores.base import NodeUsage
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.breaker import Breaker
from lookonce_cache.stores.redis.node import Command, Node
from lookonce_cache.stores.redis.options import Address, RedisOptions
from lookonce_cache.stores.redis.usage import usage_of

MAX_REDIRECTIONS = 16  # of one command
TRY_AGAIN_SECONDS = 0.05  # while a slot's keys are moving
MAX_MAP_SOURCES = 5  # nodes asked for the map at a time


class _Range(NamedTuple):
    first: int  # slot
    last: int
    owner: Address


Map = tuple[_Range, ...]


class Cluster:
    """Send each command to the primary that has its key; see `Servers`.

    Reads go to primaries too, so that every server sees a put or delete at once.

    Every node has its own connections, deadline and breaker, so that a dead or hanging node costs only its own keys.
    (redis-py's cluster client shares them: a failure makes it ask the nodes for the map one after another while every
    command waits, and a cluster error or a failed pipeline makes it close the connections of all nodes under the
    commands on their way.)

    The map of slots is fetched for the first command, again in the background when a node says that a slot has moved,
    and whenever an unavailable node is probed: after a failover the map is new before the old primary is back.

    Args:
        options: the options, with the addresses of some nodes.
        observer: receives the changes of breakers.
    """

    def __init__(self, options: RedisOptions, observer: StoreObserver) -> None:
        self._options = options
        self._observer = observer
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._map_task: asyncio.Task[None] | None = None
        # Until the first map is there, no single node can be blamed.
        self._start = Breaker(self._refresh_map, lambda is_open: observer.breaker("redis", options.location, is_open))

    async def send(self, *commands: Command) -> list[Any]:
        """Send commands to several nodes at once; see `Servers.send`."""
        replies: list[Any] = [None] * len(commands)
        todo: dict[int, tuple[Node, bool]] = {
            position: (await self._owner(_slot(command)), False) for position, command in enumerate(commands)
        }
        for _ in range(MAX_REDIRECTIONS):
            groups: dict[tuple[Node, bool], list[int]] = defaultdict(list)
            for position, target in todo.items():
                groups[target].append(position)
            sends = [
                node.send([commands[position] for position in positions], asking=asking)
                for (node, asking), positions in groups.items()
            ]
            answers = await _gather(sends)
            todo = {}
            for ((node, _), positions), answer in zip(groups.items(), answers, strict=True):
                for position, reply in zip(positions, answer, strict=True):
                    replies[position] = reply
                    if isinstance(reply, AskError | TryAgainError):
                        todo[position] = self._redirected(reply, node)
            if not todo:
                break
            if any(isinstance(replies[position], TryAgainError) for position in todo):
                await asyncio.sleep(TRY_AGAIN_SECONDS)
        return replies

    def unavailable(self, error: Exception) -> StoreUnavailableError:
        """Build the error as `Servers.unavailable` says."""
        return self._node(self._options.addresses[0]).unavailable(error)

    async def usage(self) -> list[NodeUsage]:
        """Tell of every primary; see `Servers.usage`. None before the first command."""
        return await usage_of([self._node(address) for address in sorted(self._primaries())])

    async def ping(self) -> None:
        """Ping every primary; see `Servers.ping`."""
        try:
            await self._refresh_map()
            self._start.close()
            await _gather([self._node(address).ping() for address in self._primaries()])
            await self._check(self._node(next(iter(self._primaries()))))
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    async def close(self) -> None:
        """Close as `Servers.close` says."""
        if self._map_task is not None:
            self._map_task.cancel()
            await asyncio.wait([self._map_task])
        await self._start.stop()
        for node in self._nodes.values():
            await node.close()

    def _node(self, address: Address) -> Node:
        if address not in self._nodes:
            node = Node(address, self._options, self._observer, self._probe)
            self._nodes[address] = node
        return self._nodes[address]

    def _primaries(self) -> set[Address]:
        return {owner for owner in self._owners if owner is not None}

    async def _owner(self, slot: int) -> Node:
        owner = self._owners[slot]
        if owner is None:
            if self._start.is_open:
                raise StoreUnavailableError(self._start.reason)
            try:
                await self._refresh_map()
            except (RedisError, OSError) as error:
                failure = self._lost(error)
                if not any(self._owners):
                    self._start.open(str(failure))
                raise failure from None
            owner = self._owners[slot]
        if owner is None:
            raise self._lost(ClusterDownError(f"no node has slot {slot}"))
        return self._node(owner)

    def _redirected(self, error: AskError | TryAgainError, node: Node) -> tuple[Node, bool]:
        if isinstance(error, TryAgainError):
            return node, False
        target = Address(error.host or node.address.host, error.port)  # without a host, it is the one that was asked
        if isinstance(error, MovedError):
            self._owners[error.slot_id] = target
            self._start_map_task()
        return self._node(target), not isinstance(error, MovedError)

    def _start_map_task(self) -> None:
        if self._map_task is None:
            self._map_task = asyncio.get_running_loop().create_task(self._fetch_map())
            self._map_task.add_done_callback(self._on_map)

    def _on_map(self, task: asyncio.Task[None]) -> None:
        self._map_task = None
        if not task.cancelled():
            task.exception()  # or asyncio warns that nobody retrieved it

    async def _refresh_map(self) -> None:
        """Fetch the map; concurrent callers share one fetch."""
        self._start_map_task()
        assert self._map_task
        await asyncio.shield(self._map_task)

    async def _fetch_map(self) -> None:
        nodes = self._map_sources()
        answers = await asyncio.gather(*(self._map_of(node) for node in nodes), return_exceptions=True)
        maps = Counter(answer for answer in answers if isinstance(answer, tuple))
        if not maps:
            raise next(answer for answer in answers if isinstance(answer, Exception))
        # The map that most nodes agree on: a node that was cut off has an old one.
        ((new_map, _),) = maps.most_common(1)
        await self._adopt(new_map)

    def _map_sources(self) -> Sequence[Node]:
        """Choose working primaries, and nodes of the URL, which keep their addresses."""
        primaries = list(self._primaries())
        working = [address for address in primaries if not self._node(address).breaker.is_open] or primaries
        chosen = random.sample(working, min(len(working), MAX_MAP_SOURCES))
        starts = [address for address in self._options.addresses if address not in chosen]
        return [self._node(address) for address in chosen + starts[:MAX_MAP_SOURCES]]

    async def _map_of(self, node: Node) -> Map:
        ranges = [
            _Range(first, last, Address(host.decode() or node.address.host, port))
            for first, last, (host, port, *_), *_ in await node.ask("CLUSTER", "SLOTS")
            if host != b"?"  # the node does not know the other's name
        ]
        if not ranges:
            raise ClusterDownError("the node knows of no slots")
        return tuple(sorted(ranges))

    async def _adopt(self, new_map: Map) -> None:
        before = self._primaries()
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, owner in new_map:
            owners[first : last + 1] = [owner] * (last + 1 - first)
        self._owners = owners
        for address in before - self._primaries():
            await self._node(address).suspend()

    async def _probe(self, node: Node) -> None:
        """Raise unless the node serves its slots, or has none any more."""
        with suppress(RedisError, OSError):  # all the others may be gone
            await self._refresh_map()
        if node.address in self._primaries():
            await self._check(node)

    async def _check(self, node: Node) -> None:
        info = await node.ask("CLUSTER", "INFO")
        if b"cluster_state:ok" not in info:
            raise ClusterDownError("the cluster does not serve")

    def _lost(self, error: Exception) -> StoreUnavailableError:
        failure = str(self.unavailable(error)).partition(": ")[2]
        return StoreUnavailableError(f"Redis Cluster at {self._options.location}: {failure}")


def _slot(command: Command) -> int:
    key = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
    assert isinstance(key, str)
    return key_slot(key.encode())


async def _gather(sends: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Wait for all, then return the results or raise the first error."""
    sends = list(sends)
    if len(sends) == 1:
        return [await sends[0]]
    answers = await asyncio.gather(*sends, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers

"""A Redis Cluster: which node has which key, and what to do when that changes."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, RedisError, TryAgainError

from lookonce_cache.errors import StoreUnavailableError
from lookonce_cache.stores.observer import StoreObserver
from lookonce_cache.stores.redis.breaker import Breaker
from lookonce_cache.stores.redis.node import Command, Node
from lookonce_cache.stores.redis.options import Address, RedisOptions

REDIRECTIONS = 16  # of one command
TRY_AGAIN_SECONDS = 0.05  # while half a slot's keys have moved
ASKED = 5  # nodes asked for the map at a time


class _Range(NamedTuple):
    first: int  # slot
    last: int
    owner: Address


Map = tuple[_Range, ...]


class Cluster:
    """See `Servers`. Reads too go to primaries only, so that a context that was put or deleted is so for everybody.

    Every node has its own connections, deadline and breaker, so that one that is dead or hangs costs only the keys that
    it has. (redis-py's cluster client has one breakable part for all: a failure makes it ask the nodes for the map one
    after another, in the way of every command, and a cluster error or a failed pipeline makes it close the connections
    of all nodes under the commands on their way.)

    The map of slots is got when the first command comes, and again in the background when a node says that a slot has
    moved, and whenever an unavailable node is probed: after a failover the map is new before the old primary is back.

    Args:
        options: with some of the nodes.
        observer: told when a node is given up and used again.
    """

    def __init__(self, options: RedisOptions, observer: StoreObserver) -> None:
        self._options = options
        self._observer = observer
        self._nodes: dict[Address, Node] = {}
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._finding: asyncio.Task[None] | None = None
        # For the time before the first map, when it is not known which node to give up.
        self._start = Breaker(self._find, lambda is_open: observer.breaker("redis", options.location, is_open))

    async def send(self, *commands: Command) -> list[Any]:
        """See `Servers.send`. Commands to several nodes are sent at once."""
        replies: list[Any] = [None] * len(commands)
        todo: dict[int, tuple[Node, bool]] = {
            position: (await self._owner(_slot(command)), False) for position, command in enumerate(commands)
        }
        for _ in range(REDIRECTIONS):
            groups: dict[tuple[Node, bool], list[int]] = defaultdict(list)
            for position, target in todo.items():
                groups[target].append(position)
            sending = [
                node.send([commands[position] for position in positions], asking=asking)
                for (node, asking), positions in groups.items()
            ]
            answers = await _all(sending)
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
        """See `Servers.unavailable`."""
        return self._node(self._options.addresses[0]).unavailable(error)

    async def ping(self) -> None:
        """See `Servers.ping`. Every primary must work."""
        try:
            await self._find()
            self._start.close()
            await _all([self._node(address).ping() for address in self._primaries()])
            await self._check(self._node(next(iter(self._primaries()))))
        except (RedisError, OSError) as error:
            raise self._lost(error) from None

    async def close(self) -> None:
        """See `Servers.close`."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait([self._finding])
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
                await self._find()
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
            self._find_later()
        return self._node(target), not isinstance(error, MovedError)

    def _find_later(self) -> None:
        if self._finding is None:
            self._finding = asyncio.get_running_loop().create_task(self._find_now())
            self._finding.add_done_callback(self._found)

    def _found(self, finding: asyncio.Task[None]) -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # looked at, or asyncio complains that nobody did

    async def _find(self) -> None:
        """Gets the map; several callers at a time get one."""
        self._find_later()
        assert self._finding
        await asyncio.shield(self._finding)

    async def _find_now(self) -> None:
        asked = self._whom_to_ask()
        answers = await asyncio.gather(*(self._map_of(node) for node in asked), return_exceptions=True)
        maps = Counter(answer for answer in answers if isinstance(answer, tuple))
        if not maps:
            raise next(answer for answer in answers if isinstance(answer, Exception))
        # Most agree on it: a node that was cut off tells an old one.
        ((newest, _),) = maps.most_common(1)
        await self._adopt(newest)

    def _whom_to_ask(self) -> Sequence[Node]:
        """Primaries that work, and the nodes of the URL: after a restart all others may have new addresses."""
        primaries = list(self._primaries())
        well = [address for address in primaries if not self._node(address).breaker.is_open] or primaries
        chosen = random.sample(well, min(len(well), ASKED))
        starts = [address for address in self._options.addresses if address not in chosen]
        return [self._node(address) for address in chosen + starts[:ASKED]]

    async def _map_of(self, node: Node) -> Map:
        ranges = [
            _Range(first, last, Address(host.decode() or node.address.host, port))
            for first, last, (host, port, *_), *_ in await node.ask("CLUSTER", "SLOTS")
            if host != b"?"  # a node that does not know the other's name
        ]
        if not ranges:
            raise ClusterDownError("the node knows of no slots")
        return tuple(sorted(ranges))

    async def _adopt(self, newest: Map) -> None:
        before = self._primaries()
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, owner in newest:
            owners[first : last + 1] = [owner] * (last + 1 - first)
        self._owners = owners
        for address in before - self._primaries():
            await self._node(address).rest()

    async def _probe(self, node: Node) -> None:
        """Raises unless the node serves its slots, or has none any more."""
        with suppress(RedisError, OSError):  # all the others may be gone
            await self._find()
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


async def _all(sending: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The results, when all are done; then the first error, if there was one."""
    sending = list(sending)
    if len(sending) == 1:
        return [await sending[0]]
    answers = await asyncio.gather(*sending, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers

"""Measure what keeping contexts costs, beside its least: `make bench-store`.

Contexts of some sizes in each precision, put to and got from each store, on a real redis-server over TCP and over a
unix socket. The limits are a copy of the encoded bytes in memory, and a bare SET or GET of them by redis-py's asyncio
client, which decodes nothing. Of the two copies, bytearray(view) takes fresh memory, as decoding must, and
memoryview[:] = view uses the same again. MB/s is of encoded bytes, a MB being a million bytes, whatever the operation.

One run measures everything in turn, round by round, each round in an order of its own, so that what else the machine
does falls on all alike. Times are medians with the quartiles' distance; a ratio is the median of the rounds' own.
"""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from typing import Any, NamedTuple

import torch
from redis.asyncio import Redis
from redis.maint_notifications import MaintNotificationsConfig

from lookonce_cache import (
    PRECISIONS,
    CompressedContext,
    MemoryStore,
    Store,
    StoreHit,
    decode,
    encode,
    open_store,
    quantize,
)
from lookonce_cache.stores.redis.node import READ_SIZE
from lookonce_cache.stores.tiered import TieredStore
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import RedisServer
from lookonce_evaluation.bench.synthetic import synthetic_context
from lookonce_evaluation.bench.timing import Spread
from lookonce_evaluation.tables import record_table

MEGABYTE = 10**6
SIZES = (0.2, 2.0, 36.0)  # MB
SHAPES = ((28, 4, 128), (32, 32, 128))
"""Layers, kv_heads and head_dim of keys, grouped and not; the second from `LARGE` bytes on."""
LARGE = 10 * MEGABYTE
TTL = 3600.0  # as servers have one: a get puts it off


@dataclass
class Operation:
    """An operation on one context, and its times.

    Attributes:
        labels: of the context: its size and precision.
        where: "process", or the store.
        name: of the operation.
        run: does it; this is timed.
        limit: the least that this operation could cost.
        tier: the tier in which a get must find the context.
        before: runs before it, untimed.
        seconds: the time of each run.
    """

    labels: dict[str, Any]
    where: str
    name: str
    run: Callable[[], object]
    limit: "Operation | None" = None
    tier: str | None = None
    before: Callable[[], Awaitable[object]] | None = None
    seconds: list[float] = field(default_factory=list)

    async def time(self) -> None:
        """Time one run; its result is checked and let go after that."""
        if self.before is not None:
            await self.before()
        started = time.perf_counter()
        result = self.run()
        if isawaitable(result):
            result = await result
        self.seconds.append(time.perf_counter() - started)
        assert self.tier is None or (isinstance(result, StoreHit) and result.tier == self.tier), self.name

    def row(self) -> dict[str, Any]:
        """Return the figures; the first run has warmed up."""
        times = Spread.of_seconds(self.seconds[1:])
        pairs = list(zip(self.seconds, self.limit.seconds, strict=True))[1:] if self.limit else ()
        return {
            **self.labels,
            "where": self.where,
            "operation": self.name,
            "ms": times,
            "megabytes_per_second": 1000 * self.labels["encoded_bytes"] / MEGABYTE / times.median,
            "over_limit": Spread.of(own / least for own, least in pairs) if pairs else None,
            "limit": self.limit and self.limit.name,
        }


class Stores(NamedTuple):
    """The stores by name, and bare clients of the same redis-server."""

    memory: Store
    redis: dict[str, tuple[Store, Redis]]
    hot: MemoryStore
    tiered: Store


@asynccontextmanager
async def open_stores(redis: RedisServer) -> AsyncIterator[Stores]:
    """Open every store, on one redis-server."""
    async with AsyncExitStack() as stack:

        def opened(store: Store) -> Store:
            stack.push_async_callback(store.close)
            return store

        by_link = {}
        for link, url in (("Redis, TCP", redis.url), ("Redis, unix socket", redis.socket_url)):
            bare = Redis.from_url(
                url,
                protocol=3,
                socket_read_size=READ_SIZE,  # as much as the store takes at a time
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
            )
            stack.push_async_callback(bare.aclose)
            by_link[link] = opened(open_store(url, ttl=TTL)), bare
        hot = MemoryStore(ttl=TTL)
        tiered = opened(TieredStore(hot, open_store(redis.url, ttl=TTL)))
        yield Stores(opened(open_store("memory://?max_bytes=2GiB", ttl=TTL)), by_link, hot, tiered)


def make_context(megabytes: float, precision: str) -> CompressedContext:
    """Make a bfloat16 context in a precision, of about so many MB natively."""
    layers, heads, head_dim = SHAPES[megabytes * MEGABYTE >= LARGE]
    token_bytes = 2 * layers * heads * head_dim * torch.bfloat16.itemsize  # its key and its value
    tokens = max(1, round(megabytes * MEGABYTE / token_bytes))
    random_numbers = torch.Generator().manual_seed(tokens)
    keys, values = (torch.randn(layers, heads, tokens, head_dim, generator=random_numbers).bfloat16() for _ in "kv")
    return synthetic_context(
        quantize(keys, "keys", precision),
        quantize(values, "values", precision),
        name=f"{megabytes} MB",
        kept=tokens - tokens // 4,
        image_tokens=576,
        before=16,
        after=tokens // 4,
    )


async def make_operations(megabytes: float, precision: str, stores: Stores) -> list[Operation]:
    """Make every operation on one context, and put it to all stores."""
    context = make_context(megabytes, precision)
    data = encode(context)
    for store in (stores.memory, stores.tiered):
        await store.put(context)
    for _, bare in stores.redis.values():
        await bare.set(f"bare:{context.id}", data)
    labels = {"megabytes": megabytes, "precision": precision, "encoded_bytes": len(data)}
    operation = partial(Operation, labels)
    return [*_process_operations(operation, context, data), *_store_operations(operation, context, data, stores)]


def _process_operations(
    operation: Callable[..., Operation], context: CompressedContext, data: bytes
) -> Iterator[Operation]:
    view, buffer = memoryview(data), memoryview(bytearray(data))

    def overwrite() -> None:
        buffer[:] = view

    yield (copy := operation("process", "bytearray(view)", lambda: bytearray(view)))
    yield operation("process", "memoryview[:] = view", overwrite)
    yield operation("process", "encode", lambda: encode(context), copy)
    yield operation("process", "decode", lambda: decode(data, context.key), copy)
    yield operation("process", "dense", lambda: (context.keys.dequantize(), context.values.dequantize()))


def _store_operations(
    operation: Callable[..., Operation], context: CompressedContext, data: bytes, stores: Stores
) -> Iterator[Operation]:
    key, bare_key = context.key, f"bare:{context.id}"
    yield operation("memory", "put", lambda: stores.memory.put(context))
    yield operation("memory", "get", lambda: stores.memory.get(key), tier="memory")
    limits = []
    for where, (store, bare) in stores.redis.items():
        bare_set = operation(where, "bare SET", partial(bare.set, bare_key, data))
        bare_get = operation(where, "bare GET", partial(bare.get, bare_key))
        put = operation(where, "put", partial(store.put, context), bare_set)
        yield from (bare_set, bare_get, put, operation(where, "get", partial(store.get, key), bare_get, "redis"))
        limits += [bare_set, bare_get]
    get, cool, warm = (
        (lambda: stores.tiered.get(key)),
        (lambda: stores.hot.delete(key)),
        (lambda: stores.hot.put(context)),
    )
    yield operation("tiered, TCP", "put", lambda: stores.tiered.put(context), limits[0])
    yield operation("tiered, TCP", "get, not hot", get, limits[1], "redis", before=cool)
    yield operation("tiered, TCP", "get, hot", get, tier="memory", before=warm)


async def measure(sizes: Sequence[float], rounds: int) -> list[dict[str, Any]]:
    """Time every operation, in rounds; return the figures."""
    with RedisServer() as redis:
        async with open_stores(redis) as stores:
            blocks = [await make_operations(size, precision, stores) for size in sizes for precision in PRECISIONS]
            gc.collect()
            for number in range(rounds + 1):
                order = random.Random(number)
                for block in blocks:
                    for operation in order.sample(block, len(block)):
                        await operation.time()
    return [operation.row() for block in blocks for operation in block]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("store", __doc__, quick="two rounds of the smallest size")
    parser.add_argument("--rounds", type=int, default=20, help="runs of each operation [%(default)s]")
    arguments = parser.parse_args(args)
    sizes, rounds = (SIZES[:1], 2) if arguments.quick else (SIZES, arguments.rounds)
    rows = asyncio.run(measure(sizes, rounds))
    print(record_table(rows, ".3f"))
    command.write_json(arguments.json, {"threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    command.run(main)

"""What keeping contexts costs, beside its least: `make bench-store`.

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
from typing import Any, NamedTuple

import torch
from redis.asyncio import Redis
from redis.maint_notifications import MaintNotificationsConfig

from lookonce_cache import (
    PRECISIONS,
    CompressedContext,
    ContextIdentity,
    MemoryStore,
    Store,
    StoreHit,
    decode,
    digest,
    encode,
    open_store,
    quantize,
)
from lookonce_cache.stores.redis.node import READ_SIZE
from lookonce_cache.stores.tiered import TieredStore
from lookonce_evaluation.bench import command
from lookonce_evaluation.bench.fixtures import RedisServer
from lookonce_evaluation.bench.timing import Spread
from lookonce_evaluation.tables import header, line

MEGABYTE = 10**6
SIZES = (0.2, 2.0, 36.0)  # MB
SHAPES = ((28, 4, 128), (32, 32, 128))
"""Layers, kv_heads and head_dim of keys, grouped and not; the second from `LARGE` bytes on."""
LARGE = 10 * MEGABYTE
TTL = 3600.0  # as servers have one: a get puts it off
LINKS = ("TCP", "unix socket")
COPY, OVERWRITE = "bytearray(view)", "memoryview[:] = view"
HEADER = header(
    "MB", "precision", "encoded, MB", "where", "operation", "ms", "MB/s", "time over its limit", "the limit"
)
SUMMARY = header("MB", "precision", *(f"get / bare GET, {link}" for link in LINKS), "decode, of the speed of a copy")


class Name(NamedTuple):
    """What a cell measures."""

    where: str  # in this process, or the store
    operation: str


@dataclass
class Cell:
    """An operation on one context."""

    name: Name
    run: Callable[[], Awaitable[Any]]  # this is timed
    before: Callable[[], Awaitable[Any]] | None = None  # this is not
    limit: Name | None = None  # the cell with the least that this one could cost
    tier: str | None = None  # where a get must have found the context
    seconds: list[float] = field(default_factory=list)  # of each run

    async def time(self) -> float:
        """Return the seconds of one run; what it returns is checked and let go after that."""
        if self.before is not None:
            await self.before()
        started = time.perf_counter()
        result = await self.run()
        seconds = time.perf_counter() - started
        assert self.tier is None or (isinstance(result, StoreHit) and result.tier == self.tier), self.name
        return seconds


@dataclass
class Block:
    """All cells of one context."""

    megabytes: float  # of the native context that was asked for
    precision: str  # of this context
    encoded: int  # its bytes in the wire format
    cells: list[Cell]

    async def time_round(self, order: random.Random, *, keep: bool) -> None:
        """Time every cell once, in an order of this round's own."""
        for cell in order.sample(self.cells, len(self.cells)):
            seconds = await cell.time()
            if keep:
                cell.seconds.append(seconds)

    def cell(self, name: Name | None) -> Cell:
        """Return the cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)

    def over_limit(self, cell: Cell) -> Spread:
        """Return what a cell took over what its limit took, of the rounds."""
        limit = self.cell(cell.limit)
        return Spread.of(own / least for own, least in zip(cell.seconds, limit.seconds, strict=True))


class Stores(NamedTuple):
    """The stores, and bare clients of the same redis-server."""

    memory: Store
    redis: dict[str, Store]  # by link
    hot: MemoryStore
    tiered: Store
    bare: dict[str, Redis]  # by link


@asynccontextmanager
async def open_stores(redis: RedisServer) -> AsyncIterator[Stores]:
    """Open every store, on one redis-server."""
    urls = dict(zip(LINKS, (redis.url, redis.socket_url), strict=True))
    hot = MemoryStore(ttl=TTL)
    stores = Stores(
        memory=open_store("memory://?max_bytes=2GiB", ttl=TTL),
        redis={link: open_store(url, ttl=TTL) for link, url in urls.items()},
        hot=hot,
        tiered=TieredStore(hot, open_store(redis.url, ttl=TTL)),
        bare={link: _bare_client(url) for link, url in urls.items()},
    )
    async with AsyncExitStack() as stack:
        for store in (stores.memory, stores.tiered, *stores.redis.values()):
            stack.push_async_callback(store.close)
        for client in stores.bare.values():
            stack.push_async_callback(client.aclose)
        yield stores


def _bare_client(url: str) -> Redis:
    """redis-py, with what makes it fast: it takes as much from the socket at a time as the store does."""
    notifications = MaintNotificationsConfig(enabled=False)
    client: Redis = Redis.from_url(
        url, protocol=3, socket_read_size=READ_SIZE, maint_notifications_config=notifications
    )
    return client


def make_context(megabytes: float, precision: str) -> CompressedContext:
    """Make a bfloat16 context in a precision, which takes about so many megabytes natively."""
    layers, heads, head_dim = SHAPES[megabytes * MEGABYTE >= LARGE]
    token_bytes = 2 * layers * heads * head_dim * torch.bfloat16.itemsize  # its key and its value
    tokens = max(1, round(megabytes * MEGABYTE / token_bytes))
    random_numbers = torch.Generator().manual_seed(tokens)
    keys, values = (torch.randn(layers, heads, tokens, head_dim, generator=random_numbers).bfloat16() for _ in "kv")
    identity = ContextIdentity(
        tenant="bench",
        model_fingerprint="bench",
        image_digest=digest(f"{megabytes} MB".encode()),
        describe_prompt="Describe the image.",
        template_digest=digest(b"a template"),
        retention=0.05,
        selection="coverage/generated/128",
        window=(layers // 4, layers // 2),
        precision=precision,
    )
    return CompressedContext(
        identity=identity,
        keys=quantize(keys, "keys", precision),
        values=quantize(values, "values", precision),
        shared_tokens=16,
        moved_by=-500,
        full_tokens=16 + 2 * 576,
        kept_indices=torch.arange(tokens - tokens // 4, dtype=torch.int32)[None],
        scores=torch.rand(576, generator=random_numbers),
        grid=(24, 24),
        description="A small red circle is at the top left, and a large blue square is at the bottom. " * 4,
        created_at=time.time(),
    )


async def make_block(megabytes: float, precision: str, stores: Stores) -> Block:
    """Make every cell of one context, which all stores hold from here on."""
    context = make_context(megabytes, precision)
    data = encode(context)
    for store in (stores.memory, stores.redis["TCP"], stores.tiered):
        await store.put(context)
    await stores.bare["TCP"].set(_bare_key(context), data)
    cells = [*_process_cells(context, data), *_memory_cells(context, stores.memory)]
    for link in LINKS:
        cells += _redis_cells(link, context, data, stores)
    cells += _tiered_cells(context, stores)
    return Block(megabytes, precision, len(data), cells)


def _process_cells(context: CompressedContext, data: bytes) -> Iterator[Cell]:
    where, copy = "process", Name("process", COPY)
    view, buffer = memoryview(data), memoryview(bytearray(data))

    def overwrite() -> None:
        buffer[:] = view

    def dense() -> Sequence[torch.Tensor]:
        return context.keys.dequantize(), context.values.dequantize()

    yield Cell(copy, _as_coroutine(lambda: bytearray(view)))
    yield Cell(Name(where, OVERWRITE), _as_coroutine(overwrite))
    yield Cell(Name(where, "encode"), _as_coroutine(lambda: encode(context)), limit=copy)
    yield Cell(Name(where, "decode"), _as_coroutine(lambda: decode(data, context.key)), limit=copy)
    yield Cell(Name(where, "dense"), _as_coroutine(dense))


def _memory_cells(context: CompressedContext, store: Store) -> Iterator[Cell]:
    yield Cell(Name("memory", "put"), lambda: store.put(context))
    yield Cell(Name("memory", "get"), lambda: store.get(context.key), tier="memory")


def _redis_cells(link: str, context: CompressedContext, data: bytes, stores: Stores) -> Iterator[Cell]:
    where, store, bare, key = f"Redis, {link}", stores.redis[link], stores.bare[link], _bare_key(context)
    bare_set, bare_get = Name(where, "bare SET"), Name(where, "bare GET")
    yield Cell(bare_set, lambda: bare.set(key, data))
    yield Cell(bare_get, lambda: bare.get(key))
    yield Cell(Name(where, "put"), lambda: store.put(context), limit=bare_set)
    yield Cell(Name(where, "get"), lambda: store.get(context.key), limit=bare_get, tier="redis")


def _tiered_cells(context: CompressedContext, stores: Stores) -> Iterator[Cell]:
    where, store, hot = "tiered, TCP", stores.tiered, stores.hot
    bare_set, bare_get = (Name("Redis, TCP", f"bare {command}") for command in ("SET", "GET"))

    def get() -> Awaitable[StoreHit | None]:
        return store.get(context.key)

    yield Cell(Name(where, "put"), lambda: store.put(context), limit=bare_set)
    cool, warm = (lambda: hot.delete(context.key)), (lambda: hot.put(context))
    yield Cell(Name(where, "get, not hot"), get, before=cool, limit=bare_get, tier="redis")
    yield Cell(Name(where, "get, hot"), get, before=warm, tier="memory")


def _bare_key(context: CompressedContext) -> str:
    return f"bare:{context.id}"


def _as_coroutine(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def run() -> object:
        return work()

    return run


async def measure(sizes: Sequence[float], rounds: int) -> list[Block]:
    """Time every cell, in rounds."""
    with RedisServer() as redis:
        async with open_stores(redis) as stores:
            blocks = [await make_block(size, precision, stores) for size in sizes for precision in PRECISIONS]
            gc.collect()
            for number in range(rounds + 1):
                order = random.Random(number)
                for block in blocks:
                    await block.time_round(order, keep=number > 0)  # the first round warms up
    return blocks


def row(block: Block, cell: Cell) -> dict[str, Any]:
    """Return a cell's figures."""
    milliseconds = Spread.of_seconds(cell.seconds)
    return {
        "megabytes": block.megabytes,
        "precision": block.precision,
        "encoded_bytes": block.encoded,
        **cell.name._asdict(),
        "ms": milliseconds,
        "megabytes_per_second": 1000 * block.encoded / MEGABYTE / milliseconds.median,
        "over_limit": cell.limit and block.over_limit(cell),
        "limit": cell.limit and cell.limit.operation,
    }


def table_line(figures: dict[str, Any]) -> str:
    """Return a cell's line of the table."""
    over = figures["over_limit"]
    return line(
        (
            *(f"{figures['megabytes']:g}", figures["precision"], f"{figures['encoded_bytes'] / MEGABYTE:.2f}"),
            *(figures["where"], figures["operation"], f"{figures['ms']:.3f}"),
            f"{figures['megabytes_per_second']:.0f}",
            f"{over.median:.2f}x ± {over.quartiles / 2:.2f}" if over else "-",
            figures["limit"] or "-",
        )
    )


def summary_line(block: Block) -> str:
    """Return a context's line of the summary."""
    gets = (block.over_limit(block.cell(Name(f"Redis, {link}", "get"))).median for link in LINKS)
    decoding = block.over_limit(block.cell(Name("process", "decode"))).median
    return line((f"{block.megabytes:g}", block.precision, *(f"{get:.2f}x" for get in gets), f"{1 / decoding:.2f}x"))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command.parser("store", __doc__, quick="two rounds of the smallest size")
    parser.add_argument("--rounds", type=int, default=20, help="runs of each operation [%(default)s]")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="MB of a native context [%(default)s]")
    arguments = parser.parse_args(args)
    sizes, rounds = (SIZES[:1], 2) if arguments.quick else (arguments.sizes, arguments.rounds)
    blocks = asyncio.run(measure(sizes, rounds))
    rows = [row(block, cell) for block in blocks for cell in block.cells]
    print("\n".join([HEADER, *map(table_line, rows), "", SUMMARY, *map(summary_line, blocks)]))
    command.write_json(arguments.json, {"threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    command.run(main)

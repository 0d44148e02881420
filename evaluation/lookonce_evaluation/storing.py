"""Operations on contexts as cells that can be timed in turn, each beside the least that it could cost."""

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from redis.asyncio import Redis
from redis.maint_notifications import MaintNotificationsConfig

from lookonce_cache import (
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
from lookonce_evaluation.redis_process import RedisProcess

MEGABYTE = 10**6
SHAPES = ((28, 4, 128), (32, 32, 128))
"""Layers, kv_heads and head_dim of keys, grouped and not; the second from `LARGE` bytes on."""
LARGE = 10 * MEGABYTE
TTL = 3600.0  # as servers have one: a get puts it off
LINKS = ("TCP", "unix socket")

COPY, OVERWRITE = "bytearray(view)", "memoryview[:] = view"


class Name(NamedTuple):
    """What a cell measures."""

    where: str  # in this process, or the store
    operation: str


@dataclass
class Cell:
    """An operation on one context.

    Attributes:
        name: what it is.
        run: does it; this is timed.
        before: done before each, not timed.
        limit: the cell with the least that this one could cost.
        tier: where what `run` found must have been; None where it is no get.
        seconds: what each run took.
    """

    name: Name
    run: Callable[[], Awaitable[Any]]
    before: Callable[[], Awaitable[Any]] | None = None
    limit: Name | None = None
    tier: str | None = None
    seconds: list[float] = field(default_factory=list)

    async def time(self) -> float:
        """Seconds of one run; what it returns is checked and let go after that."""
        if self.before is not None:
            await self.before()
        started = time.perf_counter()
        result = await self.run()
        taken = time.perf_counter() - started
        if self.tier is not None:
            assert isinstance(result, StoreHit), self.name
            assert result.tier == self.tier, self.name
        return taken


@dataclass
class Block:
    """All cells of one context.

    Attributes:
        megabytes: of the native context that was asked for.
        precision: of this context.
        encoded: its bytes in the wire format.
        cells: the operations.
    """

    megabytes: float
    precision: str
    encoded: int
    cells: list[Cell]

    async def round(self, order: random.Random, *, keep: bool) -> None:
        """Time every cell once, in an order of this round's own."""
        for cell in order.sample(self.cells, len(self.cells)):
            seconds = await cell.time()
            if keep:
                cell.seconds.append(seconds)

    def of_limit(self, cell: Cell) -> list[float]:
        """What a cell took over what its limit took, round by round."""
        (limit,) = (other for other in self.cells if other.name == cell.limit)
        return [mine / least for mine, least in zip(cell.seconds, limit.seconds, strict=True)]


class Stores(NamedTuple):
    """The stores, and bare clients of the same redis-server."""

    memory: Store
    redis: dict[str, Store]  # by link
    hot: MemoryStore
    tiered: Store
    bare: dict[str, Redis]  # by link

    async def close(self) -> None:
        """Of all."""
        for store in (self.memory, self.tiered, *self.redis.values()):
            await store.close()
        for client in self.bare.values():
            await client.aclose()


@asynccontextmanager
async def opened(redis: RedisProcess) -> AsyncIterator[Stores]:
    """Every store, on one redis-server."""
    urls = dict(zip(LINKS, (redis.url, redis.socket_url), strict=True))
    hot = MemoryStore(ttl=TTL)
    stores = Stores(
        memory=open_store("memory://?max_bytes=2GiB", ttl=TTL),
        redis={link: open_store(url, ttl=TTL) for link, url in urls.items()},
        hot=hot,
        tiered=TieredStore(hot, open_store(redis.url, ttl=TTL)),
        bare={link: _bare(url) for link, url in urls.items()},
    )
    try:
        yield stores
    finally:
        await stores.close()


def _bare(url: str) -> Redis:
    """redis-py, with what makes it fast: it takes as much from the socket at a time as the store does."""
    notifications = MaintNotificationsConfig(enabled=False)
    client: Redis = Redis.from_url(
        url, protocol=3, socket_read_size=READ_SIZE, maint_notifications_config=notifications
    )
    return client


def sample(megabytes: float, precision: str) -> CompressedContext:
    """A bfloat16 context in a precision, which takes about so many megabytes natively."""
    layers, heads, head_dim = SHAPES[megabytes * MEGABYTE >= LARGE]
    a_token = 2 * layers * heads * head_dim * torch.bfloat16.itemsize  # its key and its value
    tokens = max(1, round(megabytes * MEGABYTE / a_token))
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


async def block_of(megabytes: float, precision: str, stores: Stores) -> Block:
    """Every cell of one context, which all stores hold from here on."""
    context = sample(megabytes, precision)
    data = encode(context)
    for store in (stores.memory, stores.redis["TCP"], stores.tiered):
        await store.put(context)
    await stores.bare["TCP"].set(_bare_key(context), data)
    cells = [*_in_process(context, data), *_in_memory(context, stores)]
    for link in LINKS:
        cells += _over(link, context, data, stores)
    cells += _tiered(context, stores)
    return Block(megabytes, precision, len(data), cells)


def _in_process(context: CompressedContext, data: bytes) -> Iterator[Cell]:
    here, copy = "process", Name("process", COPY)
    view, buffer = memoryview(data), memoryview(bytearray(data))

    def overwrite() -> None:
        buffer[:] = view

    def dense() -> Sequence[torch.Tensor]:
        return context.keys.dequantize(), context.values.dequantize()

    yield Cell(copy, _now(lambda: bytearray(view)))
    yield Cell(Name(here, OVERWRITE), _now(overwrite))
    yield Cell(Name(here, "encode"), _now(lambda: encode(context)), limit=copy)
    yield Cell(Name(here, "decode"), _now(lambda: decode(data, context.key)), limit=copy)
    yield Cell(Name(here, "dense"), _now(dense))


def _in_memory(context: CompressedContext, stores: Stores) -> Iterator[Cell]:
    store = stores.memory
    yield Cell(Name("memory", "put"), lambda: store.put(context))
    yield Cell(Name("memory", "get"), lambda: store.get(context.key), tier="memory")


def _over(link: str, context: CompressedContext, data: bytes, stores: Stores) -> Iterator[Cell]:
    where, store, bare, key = f"Redis, {link}", stores.redis[link], stores.bare[link], _bare_key(context)
    setting, getting = Name(where, "bare SET"), Name(where, "bare GET")
    yield Cell(setting, lambda: bare.set(key, data))
    yield Cell(getting, lambda: bare.get(key))
    yield Cell(Name(where, "put"), lambda: store.put(context), limit=setting)
    yield Cell(Name(where, "get"), lambda: store.get(context.key), limit=getting, tier="redis")


def _tiered(context: CompressedContext, stores: Stores) -> Iterator[Cell]:
    where, store, hot = "tiered, TCP", stores.tiered, stores.hot
    setting, getting = (Name("Redis, TCP", f"bare {command}") for command in ("SET", "GET"))

    async def cool() -> None:
        await hot.delete(context.key)

    async def warm() -> None:
        await hot.put(context)

    yield Cell(Name(where, "put"), lambda: store.put(context), limit=setting)
    yield Cell(Name(where, "get, not hot"), lambda: store.get(context.key), before=cool, limit=getting, tier="redis")
    yield Cell(Name(where, "get, hot"), lambda: store.get(context.key), before=warm, tier="memory")


def _bare_key(context: CompressedContext) -> str:
    return f"bare:{context.id}"


def _now(work: Callable[[], object]) -> Callable[[], Awaitable[object]]:
    async def run() -> object:
        return work()

    return run

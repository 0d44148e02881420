"""Stores to test, and an observer that keeps what it receives."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from lookonce_cache import StoreObserver

from .cache_samples import context_key, make_context
from .redis_server import RedisServer

# Unless a test is about failures, a busy machine must not cause one.
PATIENTLY = "?max_connections=8&timeout=60&socket_timeout=60&socket_connect_timeout=60"

# All that a store needs; docs/deploy.md says the same.
ACL_RULES = (
    "~lookonce:1:*",
    *"+get +getex +set +getrange +strlen +exists +pexpire +pttl +unlink +del".split(),
    *"+rename +persist +zadd +zrem +zscore +zrandmember +zrevrangebyscore +evalsha +eval +ping +select".split(),
)


class Listener(StoreObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str, float]] = []  # store, operation, outcome, seconds
        self.transfers: list[tuple[str, str, int]] = []
        self.damage: list[tuple[str, str]] = []
        self.breakers: list[bool] = []
        self.refusals: set[str | None] = set()

    def operation(self, store, operation, outcome, seconds):
        self.calls.append((store, operation, outcome, seconds))

    def transferred(self, store, direction, nbytes):
        self.transfers.append((store, direction, nbytes))

    def damaged(self, store, reason):
        self.damage.append((store, reason))

    def writes(self, store, refusal):
        self.refusals.add(refusal)

    def breaker(self, store, node, is_open):
        self.breakers.append(is_open)

    def outcomes(self, store: str, operation: str | None = None) -> list[tuple[str, str]]:
        """Operation and outcome of each call of one tier."""
        return [call[1:3] for call in self.calls if call[0] == store and operation in (None, call[1])]

    def seconds(self, outcome: str) -> list[float]:
        """How long each call with that outcome took."""
        return [call[3] for call in self.calls if call[2] == outcome]


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def acl_url(server: RedisServer, *more: str) -> str:
    """As a user who may do what a store needs, and nothing else."""
    return server.add_user("lookonce", "s3cret", *ACL_RULES, *more)


IMPLEMENTATIONS = ["memory", "redis", "cluster", "tiered"]  # each runs the whole suite
URL_VARIANTS = ["no user", "unix socket", "TLS", "tiered cluster"]  # each runs a short test


def store_url(kind, fixture):
    """Return the URL of an implementation or a variant; `fixture` gets a fixture by its name.

    Redis is used as a user with the documented rights, so that the whole suite shows that they are enough.
    """
    if kind == "memory":
        return "memory://"
    if kind == "TLS":
        fixture("redis_server")  # empty, and running
        return f"rediss://127.0.0.1:{fixture('tls_port')}/0{PATIENTLY}&ssl_ca_certs={fixture('certificate').path}"
    if "cluster" in kind:
        url = fixture("redis_cluster").url
    elif kind == "redis":
        url = acl_url(fixture("redis_server"))
    else:
        url = fixture("redis_server").socket_url if kind == "unix socket" else fixture("redis_server").url
    return url + PATIENTLY + ("&hot_bytes=64MiB" if "tiered" in kind else "")


async def listed(store, tenant="acme", **options):
    """The ids on every page, in order."""
    ids, after = [], None
    while True:
        page = await store.list(tenant, after=after, **options)
        ids += [info.key.id for info in page.infos]
        if page.next is None:
            return ids
        after = page.next


async def put_all(store, names):
    await asyncio.gather(*(store.put(make_context(name)) for name in names))
    return sorted(context_key(name).id for name in names)


async def everything(store, key):
    """What the store tells about a key and its tenant, without a moment in time."""
    info = await store.info(key)
    return (
        await store.get(key) is not None,
        await store.touch(key),
        info and info.description,
        await store.state(key),
        await listed(store, key.tenant),
        (await store.stats(key.tenant)).contexts,
    )

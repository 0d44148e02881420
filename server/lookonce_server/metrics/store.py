"""The metrics of the stores."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lookonce_cache import Eviction, NodeUsage, Outcome, StoreObserver
from lookonce_server.metrics.series import AGE_SECONDS, STORE_SECONDS, start_at_zero

_log = logging.getLogger(__name__)
_OPERATIONS = (
    *("get", "peek", "put", "touch", "delete", "info", "list", "stats", "ping"),
    *("read", "write", "add", "forget"),
    *("lease", "renew", "release", "state"),
)
_DAMAGES = ("truncated", "trailing", "foreign", "version", "header", "checksum", "record", "lease", "index")
_WRITE_REFUSALS = ("misconf", "noreplicas", "oom", "readonly", "noperm")  # of writes


class UsageCollector(Collector):
    """Show what the servers of a store told last of their memory.

    A server that does not tell is not shown: its last numbers would look like today's.
    """

    def __init__(self) -> None:
        self.usages: Sequence[NodeUsage] = ()

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges, and the counter of evicted keys."""
        labels = ["store", "node"]
        used = GaugeMetricFamily("lookonce_store_used_bytes", "Memory that a store's server uses.", labels=labels)
        limit = GaugeMetricFamily(
            "lookonce_store_max_bytes", "Memory that a store's server may use, where there is a limit.", labels=labels
        )
        evicted = CounterMetricFamily(
            "lookonce_store_evicted_keys", "Keys that a store's server evicted since it started.", labels=labels
        )
        for usage in self.usages:
            values = [usage.store, usage.node]
            used.add_metric(values, usage.used_bytes)
            if usage.max_bytes is not None:
                limit.add_metric(values, usage.max_bytes)
            if usage.evicted_keys is not None:
                evicted.add_metric(values, usage.evicted_keys)
        return used, limit, evicted


class StoreMetrics(StoreObserver):
    """Count the operations of the stores.

    Args:
        registry: shows the metrics.
        on_store: called with the tier of each store, before its first operation.
    """

    def __init__(self, registry: CollectorRegistry, on_store: Callable[[str], None]) -> None:
        self._on_store = on_store
        self._stores: set[str] = set()
        self._memories: set[str] = set()  # the stores that hold contexts in this process
        self._operations = Counter(
            "lookonce_store_operations", "Calls of a store.", ["store", "operation", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "lookonce_store_operation_duration_seconds",
            "Calls of a store, encoding and decoding included.",
            ["store", "operation"],
            buckets=STORE_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "lookonce_store_bytes", "Bytes of contexts read and written.", ["store", "direction"], registry=registry
        )
        self._held = Gauge(
            "lookonce_store_held_bytes", "Tensor bytes that this process holds in memory.", ["store"], registry=registry
        )
        self._damaged = Counter(
            "lookonce_context_damaged",
            "Stored values that are no context, or another one.",
            ["store", "reason"],
            registry=registry,
        )
        self._breaker = Gauge(
            "lookonce_store_breaker_open",
            "1 while a node of the store is not used since it does not answer, else 0.",
            ["store", "node"],
            registry=registry,
        )
        self._refused = Counter(
            "lookonce_store_writes_refused",
            "Writes that a store refused though it answers, by reason.",
            ["store", "reason"],
            registry=registry,
        )
        self._read_only = Gauge(
            "lookonce_store_read_only",
            "1 while a store answers and refuses writes, by its last write.",
            ["store"],
            registry=registry,
        )
        self._evictions = Counter(
            "lookonce_context_evictions",
            "Contexts that this process dropped from its memory.",
            ["store", "reason"],
            registry=registry,
        )
        self._lifetimes = Histogram(
            "lookonce_context_lifetime_seconds",
            "Contexts dropped from memory, since they were put there.",
            ["store"],
            buckets=AGE_SECONDS,
            registry=registry,
        )
        self._idle = Histogram(
            "lookonce_context_idle_before_evict_seconds",
            "Contexts dropped from memory, since their last use.",
            ["store"],
            buckets=AGE_SECONDS,
            registry=registry,
        )
        self._usage = UsageCollector()
        registry.register(self._usage)
        self._refusals: dict[str, str] = {}  # reasons by store, of those that refused their last write

    def begin(self, store: str) -> None:
        """Show the metrics of a store at 0."""
        if store in self._stores:
            return
        self._stores.add(store)
        start_at_zero(self._operations, [store], _OPERATIONS, get_args(Outcome))
        start_at_zero(self._bytes, [store], ("read", "written"))
        start_at_zero(self._damaged, [store], _DAMAGES)
        start_at_zero(self._refused, [store], _WRITE_REFUSALS)
        self._on_store(store)

    def operation(self, store: str, operation: str, outcome: Outcome, seconds: float) -> None:
        """See `StoreObserver.operation`."""
        self._operations.labels(store, operation, outcome).inc()
        self._seconds.labels(store, operation).observe(seconds)

    def transferred(self, store: str, direction: Literal["read", "written"], nbytes: int) -> None:
        """See `StoreObserver.transferred`."""
        self._bytes.labels(store, direction).inc(nbytes)

    def holds(self, store: str, nbytes: int) -> None:
        """See `StoreObserver.holds`."""
        self.begin(store)
        if store not in self._memories:
            self._memories.add(store)
            start_at_zero(self._evictions, [store], get_args(Eviction))
            self._lifetimes.labels(store)
            self._idle.labels(store)
        self._held.labels(store).set(nbytes)

    def evicted(self, store: str, reason: Eviction, lifetime: float, idle: float) -> None:
        """See `StoreObserver.evicted`."""
        self._evictions.labels(store, reason).inc()
        self._lifetimes.labels(store).observe(lifetime)
        self._idle.labels(store).observe(idle)

    def show_usage(self, usages: Sequence[NodeUsage]) -> None:
        """Show the memory of a store's servers, in place of what was told before."""
        self._usage.usages = tuple(usages)

    def damaged(self, store: str, reason: str) -> None:
        """See `StoreObserver.damaged`."""
        self._damaged.labels(store, reason).inc()

    def breaker(self, store: str, node: str, is_open: bool) -> None:
        """See `StoreObserver.breaker`. Logged, once per fault, for operators."""
        self._breaker.labels(store, node).set(is_open)
        if is_open:
            _log.warning("the %s server at %s does not answer, and is not used until it does", store, node)
        else:
            _log.warning("the %s server at %s answers and is used again", store, node)

    def writes(self, store: str, refusal: str | None) -> None:
        """See `StoreObserver.writes`. Logged when it changes."""
        before = self._refusals.get(store)
        if refusal is not None:
            self._refused.labels(store, refusal).inc()
            self._refusals[store] = refusal
            if before is None:
                _log.warning("the %s store refuses writes (%s): contexts are read, and none is made", store, refusal)
        elif before is not None:
            del self._refusals[store]
            _log.warning("the %s store accepts writes again", store)
        self._read_only.labels(store).set(refusal is not None)

    def takes_writes(self, store: str) -> bool:
        """Return whether a store accepted its last write, or none was tried."""
        return store not in self._refusals

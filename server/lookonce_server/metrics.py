"""The metrics of the server, in a Prometheus registry of their own."""

import logging
from collections.abc import Callable, Iterable
from itertools import product
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lookonce_cache import Outcome, StoreObserver

_log = logging.getLogger(__name__)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STORE_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_IMAGES = (0, 1, 2, 3, 4, 6, 8, 12, 16)
_BYTES = tuple(4.0**n * 1024 for n in range(2, 12))
# Label values that are known in advance: their counters start at 0, or a rate would miss the first error.
_CACHES = ("hit", "miss", "bypass", "none")
_STATUSES = ("200", "400", "404", "429", "499", "500", "503")  # of questions
# Error codes of requests and connections that are refused.
REFUSALS = (
    *("invalid_api_key", "host_not_allowed", "origin_not_allowed", "request_timeout", "request_too_large"),
    *("overloaded", "rate_limit_exceeded", "concurrency_limit_exceeded", "shutting_down"),
    *("invalid_http", "headers_too_large", "too_many_connections", "send_timeout"),
)
_OPERATIONS = (
    *("get", "peek", "put", "touch", "delete", "info", "list", "stats", "ping"),
    *("read", "write", "add", "forget"),
    *("lease", "renew", "release", "state"),
)
_DAMAGES = ("truncated", "trailing", "foreign", "version", "header", "checksum", "record", "lease", "index")
_WRITE_REFUSALS = ("misconf", "noreplicas", "oom", "readonly", "noperm")  # of writes


def _start_at_zero(counter: Counter, *values: Iterable[str]) -> None:
    """Show a counter at 0 for all combinations of its labels' values."""
    for combination in product(*values):
        counter.labels(*combination)


class StoreMetrics(StoreObserver):
    """Count the operations of the stores.

    Args:
        registry: shows the metrics.
        on_store: called with the tier of each store, before its first operation.
    """

    def __init__(self, registry: CollectorRegistry, on_store: Callable[[str], None]) -> None:
        self._on_store = on_store
        self._stores: set[str] = set()
        self._operations = Counter(
            "lookonce_store_operations", "Calls of a store.", ["store", "operation", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "lookonce_store_operation_duration_seconds",
            "Calls of a store, encoding and decoding included.",
            ["store", "operation"],
            buckets=_STORE_SECONDS,
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
        self._refusals: dict[str, str] = {}  # reasons by store, of those that refused their last write

    def begin(self, store: str) -> None:
        """Show the metrics of a store at 0."""
        if store in self._stores:
            return
        self._stores.add(store)
        _start_at_zero(self._operations, [store], _OPERATIONS, get_args(Outcome))
        _start_at_zero(self._bytes, [store], ("read", "written"))
        _start_at_zero(self._damaged, [store], _DAMAGES)
        _start_at_zero(self._refused, [store], _WRITE_REFUSALS)
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
        self._held.labels(store).set(nbytes)

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


class Metrics:
    """All metrics of the server; docs/metrics.md explains each."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "lookonce_requests",
            "Questions, chats and responses alike, by outcome of the lookup and HTTP status.",
            ["cache", "status"],
            registry=r,
        )
        self.refused = Counter(
            "lookonce_requests_refused",
            "Refused requests, by the error's code.",
            ["reason"],
            registry=r,
        )
        self.request_seconds = Histogram(
            "lookonce_request_duration_seconds",
            "Questions, to the end of their answers.",
            ["cache"],
            buckets=_SECONDS,
            registry=r,
        )
        self.first_token_seconds = Histogram(
            "lookonce_time_to_first_token_seconds",
            "Questions, to the first token.",
            ["cache"],
            buckets=_SECONDS,
            registry=r,
        )
        self.tokens_per_second = Histogram(
            "lookonce_generation_tokens_per_second", "Answers' decoding speed.", buckets=_RATES, registry=r
        )
        self.images = Histogram(
            "lookonce_request_images", "Different images of answered questions.", buckets=_IMAGES, registry=r
        )
        self.lookups = Counter(
            "lookonce_context_lookups",
            "Context lookups by result and tier, one an image.",
            ["result", "tier"],
            registry=r,
        )
        self.served = Counter(
            "lookonce_context_answers",
            "Contexts that answers came from, each answer's one an image, by the tier it came from.",
            ["tier"],
            registry=r,
        )
        self.joined = Counter(
            "lookonce_joined_answers", "Answers from the joined contexts of several images.", registry=r
        )
        self.lost = Counter(
            "lookonce_context_lost",
            "Questions whose contexts were found, and gone before an answer could start.",
            registry=r,
        )
        self.fallbacks = Counter(
            "lookonce_fallbacks",
            "Answers from contexts that were checked for fallback, by outcome.",
            ["outcome"],
            registry=r,
        )
        self.waits = Counter(
            "lookonce_describe_waits",
            "Questions that waited for a describe pass under way, in this process or in a replica.",
            ["where"],
            registry=r,
        )
        self.store = StoreMetrics(r, self._start_tier_at_zero)
        self.prompt_tokens = Counter(
            "lookonce_prompt_tokens_processed", "Prompt tokens run through the model.", registry=r
        )
        self.saved_tokens = Counter(
            "lookonce_prompt_tokens_saved", "Prompt tokens that full passes would have run besides.", registry=r
        )
        self.generated_tokens = Counter("lookonce_generated_tokens", "Tokens generated in answers.", registry=r)
        self.describe_seconds = Histogram(
            "lookonce_describe_duration_seconds", "Describe passes, waiting included.", buckets=_SECONDS, registry=r
        )
        self.describes = Counter("lookonce_describes", "Describe passes by result.", ["result"], registry=r)
        self.context_bytes = Histogram(
            "lookonce_context_size_bytes", "Tensor bytes of contexts made.", buckets=_BYTES, registry=r
        )
        self.image_decodes = Counter("lookonce_image_decodes", "Images decoded, by outcome.", ["outcome"], registry=r)
        self.image_decode_seconds = Histogram(
            "lookonce_image_decode_duration_seconds",
            "Decoding an image, waiting for a process included.",
            buckets=_SECONDS,
            registry=r,
        )
        self.image_fetches = Counter(
            "lookonce_image_fetches", "Images asked for by a remote URL, by outcome.", ["outcome"], registry=r
        )
        self.retention = Gauge("lookonce_retention_ratio", "Share of the image tokens kept.", registry=r)
        self.queue_depth = Gauge("lookonce_queue_depth", "Passes that wait or run in the engine.", registry=r)
        self._start_all_at_zero()

    def _start_all_at_zero(self) -> None:
        _start_at_zero(self.requests, _CACHES, _STATUSES)
        for cache in _CACHES:
            self.request_seconds.labels(cache)
            self.first_token_seconds.labels(cache)
        _start_at_zero(self.refused, REFUSALS)
        _start_at_zero(self.fallbacks, ("none", "full_pass", "no_image", "no_room"))
        _start_at_zero(self.waits, ("process", "replica"))
        _start_at_zero(self.describes, ("done", "failed", "refused"))
        _start_at_zero(self.image_decodes, ("decoded", "refused", "timeout", "crashed", "failed"))
        _start_at_zero(self.image_fetches, ("fetched", "not_allowed", "failed", "overloaded"))

    def _start_tier_at_zero(self, tier: str) -> None:
        _start_at_zero(self.lookups, ("hit", "miss", "unavailable"), [tier])
        _start_at_zero(self.served, [tier])

"""The metrics of the server, in a Prometheus registry of their own."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from lookonce_server.metrics.series import (
    BYTES,
    IMAGES,
    RATES,
    SECONDS,
    STEP_SECONDS,
    LabelledCollector,
    start_at_zero,
)
from lookonce_server.metrics.store import StoreMetrics
from lookonce_server.metrics.tenants import TenantMetrics

# Label values that are known in advance: their counters start at 0.
_CACHES = ("hit", "miss", "bypass", "none")
_PROMPTS = ("full", "context")
_STATUSES = ("200", "400", "404", "429", "499", "500", "503")  # of questions
# Error codes of requests and connections that are refused.
REFUSALS = (
    *("invalid_api_key", "host_not_allowed", "origin_not_allowed", "request_timeout", "request_too_large"),
    *("overloaded", "rate_limit_exceeded", "concurrency_limit_exceeded", "shutting_down"),
    *("invalid_http", "headers_too_large", "too_many_connections", "send_timeout"),
)


class Metrics:
    """All metrics of the server; docs/metrics.md explains each.

    Args:
        model_name: the label of all of them; None: there is none.
        build: labels that tell what runs here.
        tenants: that are counted each by itself; None: none is, nor are the rest.

    Attributes:
        registry: shows them all.
    """

    def __init__(
        self,
        model_name: str | None = None,
        *,
        build: Mapping[str, str] | None = None,
        tenants: Sequence[str] | None = None,
    ) -> None:
        r = CollectorRegistry()
        self.registry = CollectorRegistry()
        self.registry.register(LabelledCollector(r, {} if model_name is None else {"model_name": model_name}))
        Info("lookonce_build", "What runs here, as labels; always 1.", registry=r).info(dict(build or {}))
        self.tenants = TenantMetrics(r, tenants)
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
            buckets=SECONDS,
            registry=r,
        )
        self.first_token_seconds = Histogram(
            "lookonce_time_to_first_token_seconds",
            "Questions, to the first token.",
            ["cache"],
            buckets=SECONDS,
            registry=r,
        )
        self.inter_token_seconds = Histogram(
            "lookonce_inter_token_latency_seconds",
            "Between the steps in which the model made an answer's tokens.",
            ["cache"],
            buckets=STEP_SECONDS,
            registry=r,
        )
        self.queue_seconds = Histogram(
            "lookonce_request_queue_time_seconds",
            "Answers, waiting in the engine for their first step.",
            ["cache"],
            buckets=STEP_SECONDS,
            registry=r,
        )
        self.prefill_seconds = Histogram(
            "lookonce_request_prefill_time_seconds",
            "Answers, from their first step in the engine to their first token.",
            ["prompt"],
            buckets=SECONDS,
            registry=r,
        )
        self.tokens_per_second = Histogram(
            "lookonce_generation_tokens_per_second", "Answers' decoding speed.", buckets=RATES, registry=r
        )
        self.images = Histogram(
            "lookonce_request_images", "Different images of answered questions.", buckets=IMAGES, registry=r
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
            "lookonce_prompt_tokens_processed",
            "Prompt tokens run through the model for answers.",
            ["prompt", "kind"],
            registry=r,
        )
        self.saved_tokens = Counter(
            "lookonce_prompt_tokens_saved",
            "Prompt tokens that full passes would have run besides.",
            ["kind"],
            registry=r,
        )
        self.generated_tokens = Counter("lookonce_generated_tokens", "Tokens generated in answers.", registry=r)
        self.describe_seconds = Histogram(
            "lookonce_describe_duration_seconds", "Describe passes, waiting included.", buckets=SECONDS, registry=r
        )
        self.describe_queue_seconds = Histogram(
            "lookonce_describe_queue_time_seconds",
            "Describe passes, waiting in the engine for their start.",
            buckets=SECONDS,
            registry=r,
        )
        self.describe_run_seconds = Histogram(
            "lookonce_describe_inference_time_seconds",
            "Describe passes, from their start in the engine to their end.",
            buckets=SECONDS,
            registry=r,
        )
        self.describe_tokens = Counter(
            "lookonce_describe_tokens",
            "Tokens run through the model, and generated, by describe passes.",
            ["kind"],
            registry=r,
        )
        self.describes = Counter("lookonce_describes", "Describe passes by result.", ["result"], registry=r)
        self.context_bytes = Histogram(
            "lookonce_context_size_bytes", "Tensor bytes of contexts made.", buckets=BYTES, registry=r
        )
        self.image_decodes = Counter("lookonce_image_decodes", "Images decoded, by outcome.", ["outcome"], registry=r)
        self.image_decode_seconds = Histogram(
            "lookonce_image_decode_duration_seconds",
            "Decoding an image, waiting for a process included.",
            buckets=SECONDS,
            registry=r,
        )
        self.image_fetches = Counter(
            "lookonce_image_fetches", "Images asked for by a remote URL, by outcome.", ["outcome"], registry=r
        )
        self.retention = Gauge("lookonce_retention_ratio", "Share of the image tokens kept.", registry=r)
        self.queue_depth = Gauge("lookonce_queue_depth", "Passes that wait or run in the engine.", registry=r)
        self.ready = Gauge("lookonce_ready", "1 while the engine works and no shutdown is under way.", registry=r)
        self._passes = {
            name: Gauge(f"lookonce_num_{name}", f"{text} in the engine.", registry=r)
            for name, text in (
                ("requests_running", "Answers that run"),
                ("requests_waiting", "Answers that wait"),
                ("describes_running", "Describe passes that run"),
                ("describes_waiting", "Describe passes that wait"),
            )
        }
        self._start_all_at_zero()

    def show_passes(self, **passes: int) -> None:
        """Show the passes in the engine, by the names of `PassCounts`."""
        for name, count in passes.items():
            self._passes[name].set(count)
        self.queue_depth.set(sum(passes.values()))

    def _start_all_at_zero(self) -> None:
        start_at_zero(self.requests, _CACHES, _STATUSES)
        for cache in _CACHES:
            self.request_seconds.labels(cache)
            self.first_token_seconds.labels(cache)
            self.inter_token_seconds.labels(cache)
            self.queue_seconds.labels(cache)
        for prompt in _PROMPTS:
            self.prefill_seconds.labels(prompt)
        start_at_zero(self.prompt_tokens, _PROMPTS, ("text", "image"))
        start_at_zero(self.saved_tokens, ("text", "image"))
        start_at_zero(self.describe_tokens, ("text", "image", "generated", "recomputed"))
        start_at_zero(self.refused, REFUSALS)
        start_at_zero(self.fallbacks, ("none", "full_pass", "no_image", "no_room"))
        start_at_zero(self.waits, ("process", "replica"))
        start_at_zero(self.describes, ("done", "failed", "refused"))
        start_at_zero(self.image_decodes, ("decoded", "refused", "timeout", "crashed", "failed"))
        start_at_zero(self.image_fetches, ("fetched", "not_allowed", "failed", "overloaded"))

    def _start_tier_at_zero(self, tier: str) -> None:
        start_at_zero(self.lookups, ("hit", "miss", "unavailable"), [tier])
        start_at_zero(self.served, [tier])

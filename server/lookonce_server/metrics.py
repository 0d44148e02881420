"""What is counted, for Prometheus. One `Metrics` a server, with a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BYTES = tuple(4.0**n * 1024 for n in range(2, 12))


class Metrics:
    """Every metric of the server; docs/metrics.md explains each."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "lookonce_requests",
            "Chat requests by outcome of the lookup and HTTP status.",
            ["cache", "status"],
            registry=r,
        )
        self.request_seconds = Histogram(
            "lookonce_request_duration_seconds", "Chat requests, whole.", ["cache"], buckets=_SECONDS, registry=r
        )
        self.first_token_seconds = Histogram(
            "lookonce_time_to_first_token_seconds",
            "Chat requests, to the first token.",
            ["cache"],
            buckets=_SECONDS,
            registry=r,
        )
        self.tokens_per_second = Histogram(
            "lookonce_generation_tokens_per_second", "Answers' decoding speed.", buckets=_RATES, registry=r
        )
        self.lookups = Counter(
            "lookonce_context_lookups", "Context lookups by result and tier.", ["result", "tier"], registry=r
        )
        self.served = Counter(
            "lookonce_context_answers", "Answers from a context, by the tier it came from.", ["tier"], registry=r
        )
        self.damaged = Counter(
            "lookonce_context_damaged", "Stored values that could not be read.", ["reason"], registry=r
        )
        self.store_errors = Counter("lookonce_store_errors", "Store operations that failed.", ["operation"], registry=r)
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
        self.retention = Gauge("lookonce_retention_ratio", "Share of the image tokens kept.", registry=r)
        self.queue_depth = Gauge("lookonce_queue_depth", "Passes that wait or run in the engine.", registry=r)

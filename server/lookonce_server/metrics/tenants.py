"""Count by tenant, for a bounded number of them."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter

from lookonce_server.metrics.series import start_at_zero

_OTHERS = "other"
_COUNTED = ("200", "429", "500")  # statuses whose counters start at 0


class TenantMetrics:
    """Count the questions and tokens of some tenants by name, and those of the rest together.

    Args:
        registry: shows the metrics.
        names: the tenants counted by name, decided at the start: each replica shows the same. None: no tenant is
            counted, nor are the rest.
    """

    def __init__(self, registry: CollectorRegistry, names: Sequence[str] | None) -> None:
        self._names = frozenset(names or ())
        self._is_on = names is not None
        registry = registry if self._is_on else CollectorRegistry()
        self._requests = Counter(
            "lookonce_tenant_requests",
            "Questions by tenant, outcome of the lookup and HTTP status.",
            ["tenant", "cache", "status"],
            registry=registry,
        )
        self._processed = Counter(
            "lookonce_tenant_prompt_tokens_processed",
            "Prompt tokens run through the model for answers, by tenant.",
            ["tenant"],
            registry=registry,
        )
        self._saved = Counter(
            "lookonce_tenant_prompt_tokens_saved",
            "Prompt tokens that full passes would have run besides, by tenant.",
            ["tenant"],
            registry=registry,
        )
        self._generated = Counter(
            "lookonce_tenant_generated_tokens", "Tokens generated in answers, by tenant.", ["tenant"], registry=registry
        )
        shown = [*sorted(self._names), _OTHERS] if self._is_on else []
        start_at_zero(self._requests, shown, ("hit", "miss", "bypass", "none"), _COUNTED)
        for counter in (self._processed, self._saved, self._generated):
            start_at_zero(counter, shown)

    def count_request(self, tenant: str | None, cache: str, status: str) -> None:
        """Count a question."""
        if self._is_on:
            self._requests.labels(self._label(tenant), cache, status).inc()

    def count_tokens(self, tenant: str | None, *, processed: int, saved: int, generated: int) -> None:
        """Count the tokens of a question's answers."""
        if self._is_on:
            label = self._label(tenant)
            self._processed.labels(label).inc(processed)
            self._saved.labels(label).inc(saved)
            self._generated.labels(label).inc(generated)

    def _label(self, tenant: str | None) -> str:
        return tenant if tenant in self._names and tenant is not None else _OTHERS

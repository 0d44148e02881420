"""Count what happens, for Prometheus; docs/metrics.md explains each metric."""

from lookonce_server.metrics.server import REFUSALS, Metrics

__all__ = ["REFUSALS", "Metrics"]

"""Build series: buckets of histograms, counters from 0, and a label on all of them."""

from collections.abc import Iterable, Mapping
from itertools import product

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# Of what a person waits for: they resolve a hit, of milliseconds, as well as a full pass.
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 10, 20, 40, 80, 160, 320),
)
# Of one token, and of waiting for a free place.
STEP_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10),
)
STORE_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From a second to a month: the ages of contexts.
AGE_SECONDS = (1, 10, 60, 300, 900, 3600, 14400, 43200, 86400, 259200, 604800, 2592000)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
IMAGES = (0, 1, 2, 3, 4, 6, 8, 12, 16)
BYTES = tuple(4.0**n * 1024 for n in range(2, 12))


def start_at_zero(counter: Counter, *values: Iterable[str]) -> None:
    """Show a counter at 0 for all combinations of its labels' values.

    A rate begins at the second value of a series, and would miss an error that is first shown at 1.
    """
    for combination in product(*values):
        counter.labels(*combination)


class LabelledCollector(Collector):
    """Add the same labels to every series of a registry.

    Args:
        registry: whose series are collected.
        labels: added to each.
    """

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        """Yield the registry's metrics with the labels."""
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**self._labels, **sample.labels}) if self._labels else sample
                for sample in metric.samples
            ]
            yield metric

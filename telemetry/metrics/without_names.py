"""The metrics for whoever may scrape them: without the series that name a key or a person, which are added up.

A label is left out unless it is known to name nobody, so that a metric with a new label tells strangers no more.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

# Their values are words of the service: its models, routes, errors, limits, and numbers of servers and GPUs.
OPEN_LABELS = frozenset(
    "budget checkpoint dtype fingerprint gpu hash kind le limit method model period protocol rating reason release "
    "revision route server state status version where window".split()
)


class WithoutNames:
    """All metrics of a registry, of which series that differ by other labels than OPEN_LABELS are one."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        for family in self._registry.collect():
            open_to_all = all(OPEN_LABELS.issuperset(sample.labels) for sample in family.samples)
            yield family if open_to_all else _added_up(family)


def _added_up(family: Metric) -> Metric:
    """Return the family with OPEN_LABELS alone. A series begins when the first of those that it adds up began."""
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for name, labels, value, *_ in family.samples:
        at = name, tuple((label, text) for label, text in labels.items() if label in OPEN_LABELS)
        if name == f"{family.name}_created":  # seconds since the epoch
            values[at] = min(values.get(at, value), value)
        else:
            values[at] = values.get(at, 0.0) + value
    found = Metric(family.name, family.documentation, family.type)
    for (name, known), value in values.items():
        found.add_sample(name, dict(known), value)
    return found

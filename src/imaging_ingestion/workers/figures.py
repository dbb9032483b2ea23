"""The metrics of all processes that do one work, whichever of them is asked.

Each keeps its own registry. Whoever is asked asks the others, and shows every sample with the label
`worker`: the counters of a process that came in another's place begin at 0, and Prometheus sees
that they do; `sum without (worker) (...)` is the sum of all.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from imaging_ingestion.workers.colleagues import Colleague


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its samples: name, labels, value."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


class Figures(Collector):
    """The metrics of all of them, as far as they answered the last `ask`."""

    def __init__(self, own: CollectorRegistry, colleague: Colleague) -> None:
        """`own` has those of this process."""
        self._own = own
        self._colleague = colleague
        self._others: dict[int, list[Family] | None] = {}

    def packed(self) -> bytes:
        """Those of this process, for another one that was asked."""
        return msgspec.msgpack.encode(self._ours())

    async def ask(self) -> None:
        """Ask the others."""
        self._others = {
            number: None if text is None else msgspec.msgpack.decode(text, type=list[Family])
            for number, text in (await self._colleague.figures()).items()
        }

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        everybody = sorted({**self._others, self._colleague.number: self._ours()}.items())
        up = Metric(
            "imaging_ingestion_worker_up", "Whether a process answers the one asked.", "gauge"
        )
        merged: dict[str, Metric] = {}
        for number, families in everybody:
            worker = {"worker": str(number)}
            up.add_sample(up.name, worker, float(families is not None))
            for one in families or ():
                metric = merged.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                for name, labels, value in one.samples:
                    metric.add_sample(name, worker | labels, value)
        yield up
        yield from merged.values()

    def _ours(self) -> list[Family]:
        return [
            Family(
                metric.name,
                metric.documentation,
                metric.type,
                [(one.name, one.labels, one.value) for one in metric.samples],
            )
            for metric in self._own.collect()
        ]

"""The embedded broker: a durable queue in the manifest's own database.

There is no queue beside the log (docs/decisions/0002): a subscription is a position in the log and
rows of the delivery ledger. Its `Dispatcher` reads the log itself.
"""

from __future__ import annotations

from imaging_ingestion.brokers.dispatcher import BrokerSettings
from imaging_ingestion.brokers.log_broker import LogBroker

__all__ = ["BrokerSettings", "EmbeddedBroker"]


class EmbeddedBroker(LogBroker):
    """The broker port on the manifest's database, and nothing else."""

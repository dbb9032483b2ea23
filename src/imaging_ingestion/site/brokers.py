"""The broker of each core: which kind, and how it is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from imaging_ingestion.brokers.dispatcher import BrokerSettings
from imaging_ingestion.brokers.embedded import EmbeddedBroker
from imaging_ingestion.brokers.log_broker import LogBroker
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.resources.plan import BrokerPlan, SitePlan
from imaging_ingestion.resources.setting_values import is_url
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.nats_server import NatsAddress

#: Where the site's own NATS server keeps its streams, in the data folder.
STORE: Final = "nats"


def nats_store(plan: SitePlan, data: Path) -> Path | None:
    """Where the site's own NATS server has to keep streams; None: it need not."""
    needed = any(core.broker.needs_own_nats for core in plan.cores)
    return (data / STORE).absolute() if needed else None


def build_broker(
    plan: BrokerPlan,
    database: Database,
    settings: BrokerSettings,
    own_nats: NatsAddress | None,
    environment: Mapping[str, str] | None = None,
) -> LogBroker:
    """The broker of a core, not started. Raises SiteError.

    `own_nats` is the site's own NATS server, which runs if a core needs it.
    """
    values = os.environ if environment is None else environment
    if plan.kind == "jetstream":
        return _jetstream(plan, database, settings, own_nats)
    if plan.kind == "knative":
        return _knative(plan, database, settings, values)
    return EmbeddedBroker(database, settings)


def _jetstream(
    plan: BrokerPlan, database: Database, settings: BrokerSettings, own: NatsAddress | None
) -> LogBroker:
    from imaging_ingestion.brokers.jetstream import JetStreamBroker, JetStreamSettings
    from imaging_ingestion.nats_client.settings import NatsSettings, SettingsError

    if plan.servers:
        nats = NatsSettings(
            plan.servers,
            plan.secure,
            plan.ca,
            user=plan.user,
            password=None if plan.password is None else plan.password.get_secret_value(),
            token=None if plan.token is None else plan.token.get_secret_value(),
        )
    else:
        assert own is not None, "the site's own NATS server has not been started"
        nats = NatsSettings((own.url,), token=own.token)
    jetstream = JetStreamSettings(nats, replicas=plan.replicas)
    if plan.subject_root is not None:
        jetstream = replace(jetstream, subject_root=plan.subject_root)
    if plan.max_age is not None:
        jetstream = replace(jetstream, max_age=plan.max_age)
    try:
        return JetStreamBroker(database, settings, jetstream)
    except SettingsError as error:
        raise SiteError([f"{plan.place}: spec.broker: {one}" for one in error.problems]) from error


def _knative(
    plan: BrokerPlan, database: Database, settings: BrokerSettings, values: Mapping[str, str]
) -> LogBroker:
    from imaging_ingestion.brokers.knative import KnativeCarrier, read_overrides
    from imaging_ingestion.brokers.knative_broker import KnativeBroker

    sink = plan.sink or values.get("K_SINK", "").strip()
    if not sink:
        raise SiteError(
            [f"{plan.place}: spec.broker.sink: it is not given, and K_SINK is not set either"]
        )
    if not is_url(sink):
        raise SiteError([f"{plan.place}: K_SINK: http://HOST… or https://HOST… was expected"])
    try:
        overrides = values.get("K_CE_OVERRIDES")
        carrier = KnativeCarrier(
            sink,
            extensions=None if not overrides else read_overrides(overrides),
            ca_certs=values.get("K_CA_CERTS"),
        )
    except ValueError as error:
        raise SiteError([f"{plan.place}: {error}"]) from error
    return KnativeBroker(database, settings, carrier)

"""What takes the CloudEvents that are POSTed to a site's cores."""

from __future__ import annotations

from imaging_ingestion.api.arrivals import Arrivals, Inbox
from imaging_ingestion.brokers.carried import CarriedBroker
from imaging_ingestion.brokers.log_inbox import LogInbox
from imaging_ingestion.intake import IntakeSettings
from imaging_ingestion.intake.announced import AnnouncedInstances, AnnouncedSpace
from imaging_ingestion.resources.plan import SpacePlan
from imaging_ingestion.site.core import RunningCore
from imaging_ingestion.storage.space import Space


def arrivals_of(core: RunningCore) -> Arrivals:
    """What takes the events of one core."""
    plans = {plan.name: plan for plan in core.plan.spaces}
    spaces = {
        name: _announced(service.space, service.intake.settings, plans[name])
        for name, service in core.services.items()
    }
    instances = AnnouncedInstances(
        core.plan.name, core.database, core.broker, spaces, core.roots_of
    )
    roots = {root.rstrip("/"): name for name in spaces for root in core.roots_of(name)}
    return Arrivals(instances, _inbox_of(core), roots)


def _inbox_of(core: RunningCore) -> Inbox:
    """With Knative what is POSTed is what the broker brings; else it is new to the broker."""
    if core.plan.broker.kind == "knative":
        assert isinstance(core.broker, CarriedBroker)
        return core.broker.inbox
    return LogInbox(core.plan.name, core.database, core.broker)


def _announced(space: Space, settings: IntakeSettings, plan: SpacePlan) -> AnnouncedSpace:
    bucket = prefix = None
    if plan.bucket:
        from imaging_ingestion.storage.cloud_settings import cloud_settings

        found = cloud_settings(
            {key: value.get_secret_value() for key, value in plan.bucket.items()}
        )
        assert found is not None, "a space with a bucket has been opened"
        bucket, prefix = found.bucket, found.prefix
    return AnnouncedSpace(space, settings, bucket, prefix)

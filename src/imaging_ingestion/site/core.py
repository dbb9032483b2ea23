"""A core at work: its manifest, its spaces, its broker and its bindings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from imaging_ingestion.api.app import CoreHandle
from imaging_ingestion.bindings.selector import Selector, SelectorError, parse_selector
from imaging_ingestion.brokers.clock_watch import ClockWatch
from imaging_ingestion.brokers.deletion import Deletion
from imaging_ingestion.brokers.dispatcher import BrokerSettings
from imaging_ingestion.brokers.log_broker import LogBroker
from imaging_ingestion.brokers.quarantine import Quarantine
from imaging_ingestion.brokers.removal import Removing
from imaging_ingestion.brokers.retention import Retention
from imaging_ingestion.brokers.settle_hints import SettleHints
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.dicomweb.service import DicomwebService, DicomwebSettings
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy
from imaging_ingestion.intake import Intake, IntakeSettings
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.event_data import RootsOf, SpaceRoots
from imaging_ingestion.manifest.retention import Rules
from imaging_ingestion.resources.plan import CorePlan, RetentionPlan, SitePlan, SpacePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.brokers import build_broker
from imaging_ingestion.site.manifest import open_manifest
from imaging_ingestion.site.nats_server import NatsAddress
from imaging_ingestion.site.sources import told_of_stow
from imaging_ingestion.site.spaces import Buckets, open_space
from imaging_ingestion.storage.space import Space


@dataclass(slots=True)
class RunningCore:
    """A core at work."""

    plan: CorePlan
    database: Database
    broker: LogBroker
    spaces: dict[str, Space]
    services: dict[str, DicomwebService]
    roots_of: RootsOf
    hints: SettleHints
    deletion: Deletion
    quarantine: Quarantine

    def handle(self) -> CoreHandle:
        return CoreHandle(
            name=self.plan.name,
            database=self.database,
            broker=self.broker,
            bindings=tuple(binding.name for binding in self.plan.bindings),
            spaces=tuple(self.spaces),
            next_commit=self.broker.next_commit,
            roots_of=self.roots_of,
            deletion=self.deletion,
            quarantine=self.quarantine,
            rules={
                space.name: _rules(space.retention) for space in self.plan.spaces if space.retention
            },
        )


def read_selectors(plan: SitePlan) -> dict[str, Selector]:
    """The selector of each binding, by its name. Raises SiteError."""
    selectors: dict[str, Selector] = {}
    problems = []
    for binding in (binding for core in plan.cores for binding in core.bindings):
        try:
            selectors[binding.name] = parse_selector(binding.selector)
        except SelectorError as error:
            problems.append(f"binding {binding.name}: {error}")
    if problems:
        raise SiteError(problems)
    return selectors


async def start_core(
    stack: AsyncExitStack,
    plan: CorePlan,
    data: Path,
    base_url: str,
    selectors: Mapping[str, Selector],
    buckets: Buckets,
    own_nats: NatsAddress | None,
) -> RunningCore:
    database = await open_manifest(stack, plan, data)
    plans = {space.name: space for space in plan.spaces}

    def roots_of(space: str) -> SpaceRoots:
        own = f"{base_url}/spaces/{space}/dicom-web"
        declared = plans.get(space)
        if declared is None:
            return SpaceRoots(own, own)
        internal = (declared.internal_url or own).rstrip("/")
        return SpaceRoots(internal, (declared.external_url or internal).rstrip("/"))

    settings = BrokerSettings(
        core=plan.name,
        revisioning_delay=plan.revisioning_delay,
        roots_of=roots_of,
        api_url=f"{base_url}/api",
    )
    broker = build_broker(plan.broker, database, settings, own_nats)
    settling = Settling(
        database,
        lambda space, study, series: f"{roots_of(space).internal}/studies/{study}/series/{series}",
        broker.committed,
    )
    hints = SettleHints(database, plan.settle_after_release, settling.wake)
    deletion = Deletion(database, plan.revisioning_delay, broker.committed)
    spaces: dict[str, Space] = {}
    services: dict[str, DicomwebService] = {}
    intakes = []
    for space_plan in plan.spaces:
        service = await _start_space(stack, space_plan, data, buckets, database, broker)
        told = told_of_stow(stack, plan, space_plan.name, hints)
        service = dataclasses.replace(service, on_stored=told, deletion=deletion)
        spaces[space_plan.name] = service.space
        services[space_plan.name] = service
        intakes.append(service.intake)
    roots = [roots_of(space) for space in spaces]
    _subscribe(stack, plan, broker, database, spaces, base_url, roots, selectors)
    await broker.start()
    stack.push_async_callback(broker.stop)
    for intake in intakes:
        stack.push_async_callback(intake.close)
    settling.start()
    stack.push_async_callback(settling.stop)
    hints.start()
    stack.push_async_callback(hints.stop)
    removing = Removing(database, spaces)
    removing.start()
    stack.push_async_callback(removing.stop)
    quarantine = Quarantine(database, spaces, plan.revisioning_delay, broker.committed)
    retention = Retention(
        database,
        {space.name: _rules(space.retention) for space in plan.spaces if space.retention},
        [binding.name for binding in plan.bindings],
        plan.revisioning_delay,
        broker.committed,
    )
    retention.start()
    stack.push_async_callback(retention.stop)

    def times_changed() -> None:
        settling.wake()
        broker.committed()

    clock_watch = ClockWatch(database, plan.revisioning_delay, times_changed)
    clock_watch.start()
    stack.push_async_callback(clock_watch.stop)
    return RunningCore(
        plan, database, broker, spaces, services, roots_of, hints, deletion, quarantine
    )


def _rules(plan: RetentionPlan) -> Rules:
    microsecond = timedelta(microseconds=1)
    return Rules(None if plan.max_age is None else plan.max_age // microsecond, plan.max_size)


async def _start_space(
    stack: AsyncExitStack,
    plan: SpacePlan,
    data: Path,
    buckets: Buckets,
    database: Database,
    broker: LogBroker,
) -> DicomwebService:
    space = await open_space(plan, data, buckets)
    stack.push_async_callback(space.close)
    settings = IntakeSettings(
        conflict_policy=ConflictPolicy(plan.conflict_policy),
        patient_conflict_policy=PatientConflictPolicy(plan.patient_conflict_policy),
        # Many share the synchronising of a folder; of uploads nobody has to wait for another.
        publishes_together=not plan.bucket,
    )
    intake = Intake(space, broker, settings)
    return DicomwebService(
        space_name=plan.name,
        space=space,
        database=database,
        intake=intake,
        provider=plan.provider,
        settings=DicomwebSettings(external_url=plan.external_url),
    )


def _subscribe(
    stack: AsyncExitStack,
    plan: CorePlan,
    broker: LogBroker,
    database: Database,
    spaces: Mapping[str, Space],
    base_url: str,
    roots: Sequence[SpaceRoots],
    selectors: Mapping[str, Selector],
) -> None:
    """Build the bindings of a core and hand them their events. Raises SiteError."""
    if not plan.bindings:
        return
    from imaging_ingestion.bindings.build import build_binding

    for binding_plan in plan.bindings:
        selector = selectors[binding_plan.name]
        try:
            binding = build_binding(binding_plan, selector, database, spaces, base_url, roots)
        except ValueError as error:
            raise SiteError([f"binding {binding_plan.name}: {error}"]) from error
        stack.push_async_callback(binding.target.close)
        broker.subscribe(binding.subscription, binding.handler)

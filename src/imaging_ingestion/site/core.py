"""A core at work: its manifest, its spaces, its broker and its bindings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from imaging_ingestion.api.app import CoreHandle
from imaging_ingestion.bindings.selector import Selector, SelectorError, parse_selector
from imaging_ingestion.brokers.embedded import BrokerSettings, EmbeddedBroker
from imaging_ingestion.brokers.settling import Settling
from imaging_ingestion.dicomweb.service import DicomwebService, DicomwebSettings
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.intake import Intake, IntakeSettings
from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.event_data import RootsOf, SpaceRoots
from imaging_ingestion.manifest.migrate import NewerSchemaError, migrate
from imaging_ingestion.resources.plan import CorePlan, SitePlan, SpacePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.site.spaces import Buckets, open_space
from imaging_ingestion.storage.space import Space


@dataclass(slots=True)
class RunningCore:
    """A core at work."""

    plan: CorePlan
    database: Database
    broker: EmbeddedBroker
    spaces: dict[str, Space]
    services: dict[str, DicomwebService]
    roots_of: RootsOf

    def handle(self) -> CoreHandle:
        return CoreHandle(
            name=self.plan.name,
            database=self.database,
            broker=self.broker,
            bindings=tuple(binding.name for binding in self.plan.bindings),
            spaces=tuple(self.spaces),
            next_commit=self.broker.next_commit,
            roots_of=self.roots_of,
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
) -> RunningCore:
    database = await _open_manifest(stack, plan, data)
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
    broker = EmbeddedBroker(database, settings)
    spaces: dict[str, Space] = {}
    services: dict[str, DicomwebService] = {}
    intakes = []
    for space_plan in plan.spaces:
        service = await _start_space(stack, space_plan, data, buckets, database, broker)
        spaces[space_plan.name] = service.space
        services[space_plan.name] = service
        intakes.append(service.intake)
    roots = [roots_of(space) for space in spaces]
    _subscribe(stack, plan, broker, database, spaces, base_url, roots, selectors)
    await broker.start()
    stack.push_async_callback(broker.stop)
    for intake in intakes:
        stack.push_async_callback(intake.close)
    settling = Settling(
        database,
        lambda space, study, series: f"{roots_of(space).internal}/studies/{study}/series/{series}",
        broker.committed,
    )
    settling.start()
    stack.push_async_callback(settling.stop)
    return RunningCore(plan, database, broker, spaces, services, roots_of)


async def _open_manifest(stack: AsyncExitStack, plan: CorePlan, data: Path) -> Database:
    """The core's database, in the newest version. Raises SiteError."""
    url = plan.database.url
    if url is None:
        file = data / (plan.database.file or f"{plan.name}.db")
        url = URL.create("sqlite", database=str(file))
    database = open_database(url, max_size=plan.database.max_size)
    stack.push_async_callback(database.close)
    try:
        await migrate(database)
    except (OSError, DBAPIError, NewerSchemaError) as error:
        reason = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
        raise SiteError(
            [f"core {plan.name}: the database {url} cannot be used: {reason}"]
        ) from error
    return database


async def _start_space(
    stack: AsyncExitStack,
    plan: SpacePlan,
    data: Path,
    buckets: Buckets,
    database: Database,
    broker: EmbeddedBroker,
) -> DicomwebService:
    space = await open_space(plan, data, buckets)
    stack.push_async_callback(space.close)
    settings = IntakeSettings(
        conflict_policy=ConflictPolicy(plan.conflict_policy),
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
    broker: EmbeddedBroker,
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

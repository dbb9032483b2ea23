"""From declared resources to the plan of what one machine is to run.

Each resource is planned by itself first (`plan_*`); what can only be seen of all of them together
is checked here. Every problem is told, not the first one only.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from imaging_ingestion.resources.models import (
    DicomEventBridge,
    DicomEventDrivenIngestion,
    DicomInstanceBinding,
    DicomStudyBinding,
    DicomwebIngestionService,
    DimseIngestionService,
    DimseProxy,
)
from imaging_ingestion.resources.plan import (
    DEFAULT_CORE,
    DEFAULT_SPACE,
    DIMSE_PORT,
    BindingPlan,
    BrokerPlan,
    CorePlan,
    DimsePlan,
    ProxyPlan,
    SitePlan,
    SpacePlan,
)
from imaging_ingestion.resources.plan_bindings import instance_binding_plan, study_binding_plan
from imaging_ingestion.resources.plan_broker import broker_plan
from imaging_ingestion.resources.plan_dimse import dimse_plan
from imaging_ingestion.resources.plan_sources import stow_sources
from imaging_ingestion.resources.plan_storage import (
    SpaceRules,
    database_plan,
    own_database,
    own_directory,
    space_plan,
    space_rules,
)
from imaging_ingestion.resources.plan_tunnel import proxy_plan
from imaging_ingestion.resources.site_file import Site, SiteError

#: Parsed, so that a site that has them can be checked; run by a later version.
_LATER = (DicomEventBridge,)

_OfCore = TypeVar(
    "_OfCore",
    DicomwebIngestionService,
    DimseIngestionService,
    DicomInstanceBinding,
    DicomStudyBinding,
)
_Plan = TypeVar("_Plan")


def built_in_plan(dimse_port: int = DIMSE_PORT, *, sink: str | None = None) -> SitePlan:
    """The site of `up` without a file: one core, one space, SQLite, a local folder.

    `sink`: where Knative wants its events sent, if that is the broker.
    """
    core = CorePlan(
        DEFAULT_CORE,
        own_database(DEFAULT_CORE),
        timedelta(seconds=30),
        (SpacePlan(DEFAULT_SPACE, own_directory(DEFAULT_SPACE)),),
        (),
        (DimsePlan("dimse", DEFAULT_SPACE, port=dimse_port),),
        broker=BrokerPlan("knative", sink=sink, place="K_SINK") if sink else BrokerPlan(),
    )
    return SitePlan((core,))


def runnable(site: Site) -> SitePlan:
    """What is to be run. Raises SiteError with everything that stands in the way."""
    return _Planner(site).plan()


def with_dimse_port(plan: SitePlan, port: int) -> SitePlan:
    """The plan with another port for its DIMSE service. Raises SiteError if it has not just one."""
    services = [service for core in plan.cores for service in core.dimse]
    if len(services) != 1:
        named = ", ".join(service.name for service in services) or "none"
        raise SiteError(
            [
                "--dimse-port is for a site with one DimseIngestionService; this one has "
                f"{named}: spec.port says on which port a service listens"
            ]
        )
    cores = tuple(
        dataclasses.replace(
            core, dimse=tuple(dataclasses.replace(one, port=port) for one in core.dimse)
        )
        for core in plan.cores
    )
    return dataclasses.replace(plan, cores=cores)


class _Planner:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._problems: list[str] = []

    def plan(self) -> SitePlan:
        for kind in _LATER:
            for _, place in self._site.of(kind):
                self._problem(
                    f"{place}: {kind.__name__} is not run by this version; take it out of the site"
                )
        dicomweb = self._of_cores(DicomwebIngestionService, space_plan)
        dimse_spaces = self._of_cores(DimseIngestionService, space_plan)
        web_rules = self._of_cores(DicomwebIngestionService, space_rules)
        dimse_rules = self._of_cores(DimseIngestionService, space_rules)
        dimse = self._of_cores(DimseIngestionService, dimse_plan)
        instance_bindings = self._of_cores(DicomInstanceBinding, instance_binding_plan)
        study_bindings = self._of_cores(DicomStudyBinding, study_binding_plan)
        cores = self._site.of(DicomEventDrivenIngestion)
        if not cores:
            alone = "; a proxy alone is run by `run proxy`" if self._site.of(DimseProxy) else ""
            self._problem(f"the site has no DicomEventDrivenIngestion: one core is needed{alone}")
        elif not (
            bool(self._site.of(DicomwebIngestionService))
            or bool(self._site.of(DimseIngestionService))
        ):
            self._problem(
                "the site has neither a DicomwebIngestionService nor a DimseIngestionService: one "
                "space is needed"
            )
        plans = []
        for core, place in cores:
            bindings: list[tuple[BindingPlan, str]] = [
                *instance_bindings.get(core.name, ()),
                *study_bindings.get(core.name, ()),
            ]
            self._check_names(bindings)
            plan = CorePlan(
                core.name,
                database_plan(self._site, core, place, self._problems),
                core.spec.revisioningDelay,
                self._spaces(
                    dicomweb.get(core.name, ()),
                    dimse_spaces.get(core.name, ()),
                    [*web_rules.get(core.name, ()), *dimse_rules.get(core.name, ())],
                ),
                tuple(binding for binding, _ in bindings),
                tuple(service for service, _ in dimse.get(core.name, ())),
                broker=broker_plan(self._site, core, place, self._problems),
                settle_after_release=core.spec.settleAfterRelease,
                stow_sources=stow_sources(
                    self._site,
                    self._of_core(DicomwebIngestionService, core.name),
                    self._problems,
                ),
            )
            plans.append((plan, place))
        self._check_spaces([plan for plan, _ in plans])
        self._check_databases(plans)
        proxies = [
            proxy_plan(self._site, proxy, place, self._problems)
            for proxy, place in self._site.of(DimseProxy)
        ]
        services = [found for services in dimse.values() for found in services]
        self._check_ports([(one.port, where) for one, where in services], proxies)
        self._check_destinations(services)
        if self._problems:
            # What two services share is looked at twice.
            raise SiteError(tuple(dict.fromkeys(self._problems)))
        return SitePlan(
            tuple(sorted((plan for plan, _ in plans), key=lambda plan: not plan.spaces)),
            tuple(proxies),
        )

    def _problem(self, sentence: str) -> None:
        self._problems.append(sentence)

    def _of_cores(
        self,
        kind: type[_OfCore],
        planned: Callable[[Site, _OfCore, str, list[str]], _Plan | None],
    ) -> dict[str, list[tuple[_Plan, str]]]:
        """The plans of one kind's resources, with their places, by core."""
        found: dict[str, list[tuple[_Plan, str]]] = {}
        for resource, place in self._site.of(kind):
            core = resource.spec.dicomEventDrivenIngestionName
            if self._site.find(DicomEventDrivenIngestion, core) is None:
                self._problem(
                    f"{place}: spec.dicomEventDrivenIngestionName: there is no "
                    f"DicomEventDrivenIngestion named {core}"
                )
            plan = planned(self._site, resource, place, self._problems)
            if plan is not None:
                found.setdefault(core, []).append((plan, place))
        return found

    def _of_core(self, kind: type[_OfCore], core: str) -> list[tuple[_OfCore, str]]:
        """One kind's resources of a core, with their places."""
        return [
            (resource, place)
            for resource, place in self._site.of(kind)
            if resource.spec.dicomEventDrivenIngestionName == core
        ]

    def _spaces(
        self,
        dicomweb: Sequence[tuple[SpacePlan, str]],
        dimse: Sequence[tuple[SpacePlan, str]],
        rules: Sequence[tuple[SpaceRules, str]],
    ) -> tuple[SpacePlan, ...]:
        """The spaces of a core: several services may serve one, if they agree on it.

        A DIMSE service has a provider of its own. The rules of a space may be told by any of its
        services: those that say nothing leave them to the others.
        """
        spaces: dict[str, SpacePlan] = {}
        for space, place in dicomweb:
            if spaces.setdefault(space.name, space) != space:
                self._differs(space, place)
        for space, place in dimse:
            found = spaces.setdefault(space.name, space)
            if found != dataclasses.replace(space, provider=found.provider):
                self._differs(space, place)
        said: dict[tuple[str, str], tuple[Any, str]] = {}
        for one, place in rules:
            for name, (path, value) in one.said.items():
                before, other = said.setdefault((one.space, name), (value, place))
                if before != value:
                    self._problem(
                        f"{place}: {path}: {other} says otherwise for the space {one.space}"
                    )
        for (name, field), (value, _) in said.items():
            spaces[name] = dataclasses.replace(spaces[name], **{field: value})
        return tuple(spaces.values())

    def _differs(self, space: SpacePlan, place: str) -> None:
        self._problem(f"{place}: another service declares the space {space.name} differently")

    def _check_names(self, bindings: Sequence[tuple[BindingPlan, str]]) -> None:
        taken: dict[str, str] = {}
        for binding, place in bindings:
            if binding.name in taken:
                self._problem(
                    f"{place}: a binding named {binding.name} is declared in {taken[binding.name]} "
                    "already; the delivery ledger goes by the name"
                )
            taken.setdefault(binding.name, place)

    def _check_spaces(self, cores: Sequence[CorePlan]) -> None:
        """A space belongs to one core, and a folder to one space."""
        owners: dict[str, str] = {}
        folders: dict[Path, str] = {}
        for core in cores:
            for space in core.spaces:
                if space.name in owners:
                    self._problem(
                        f"the space {space.name} belongs to two cores: {owners[space.name]} and "
                        f"{core.name}"
                    )
                    continue
                owners[space.name] = core.name
                folder = Path(os.path.normpath(space.directory))
                for other, name in folders.items():
                    if folder == other or folder in other.parents or other in folder.parents:
                        self._problem(
                            f"the spaces {name} and {space.name} share the folder "
                            f"{min(folder, other, key=lambda each: len(each.parts))}: "
                            "each needs a LOCAL_STORAGE_PATH of its own"
                        )
                folders.setdefault(folder, space.name)

    def _check_databases(self, cores: Sequence[tuple[CorePlan, str]]) -> None:
        """A manifest belongs to one core: it has one log."""
        owners: dict[object, str] = {}
        for core, place in cores:
            database = core.database
            where = database.url or Path(os.path.normpath(database.file or ""))
            if where in owners:
                self._problem(f"{place}: the core {owners[where]} uses the same database")
            owners.setdefault(where, core.name)

    def _check_ports(
        self, services: Sequence[tuple[int | None, str]], proxies: Sequence[ProxyPlan]
    ) -> None:
        """A port belongs to one of those that listen."""
        taken: dict[int, str] = {}
        for port, place in [*services, *((proxy.port, proxy.place) for proxy in proxies)]:
            if not port:  # none, or a free one
                continue
            if port in taken:
                self._problem(
                    f"{place}: {taken[port]} listens on port {port}, too; each needs a spec.port "
                    "of its own"
                )
            taken.setdefault(port, place)

    def _check_destinations(self, services: Sequence[tuple[DimsePlan, str]]) -> None:
        """One title has one address to all services of a space.

        Whichever of them took a request for storage commitment, any may have to report on it.
        """
        known: dict[tuple[str, str], tuple[object, str]] = {}
        for service, place in services:
            for one in service.destinations:
                key = (service.space, one.ae_title.lower())
                address = (one.host, one.port, one.tls)
                found, other = known.setdefault(key, (address, place))
                if found != address:
                    self._problem(
                        f"{place}: spec.destinations: {other} has {one.ae_title} elsewhere; a "
                        f"title means one address for all services of the space {service.space}"
                    )

"""From declared resources to what one machine is to run: references resolved, settings typed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import SecretStr
from sqlalchemy.engine import URL

from imaging_ingestion.resources.models import (
    DicomEventBridge,
    DicomEventDrivenIngestion,
    DicomInstanceBinding,
    DicomStudyBinding,
    DicomwebIngestionService,
    DimseIngestionService,
    DimseProxy,
)
from imaging_ingestion.resources.setting_values import Settings, read_settings
from imaging_ingestion.resources.site_file import Site, SiteError

DEFAULT_CORE = "core"
DEFAULT_SPACE = "default"
#: Deliveries at once where the resource leaves it open (0).
DEFAULT_CONCURRENCY = 8
#: How we call ourselves where nothing else is said, and the well-known port (PS3.8 9.1.1).
DEFAULT_AE_TITLE = "INGESTION"
DICOM_PORT = 104
_POOL = 16
_LARGEST_POOL = 1000

_OBJECT_STORES = (
    "BUCKET_NAME",
    "BUCKET_HOST",
    "AZURE_CONTAINER_NAME",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_NAME",
)
#: Parsed, so that a site that has them can be checked; run by a later version.
_LATER = (DimseIngestionService, DimseProxy, DicomEventBridge)

_OfCore = TypeVar("_OfCore", DicomwebIngestionService, DicomInstanceBinding, DicomStudyBinding)
_Plan = TypeVar("_Plan")


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """Where a manifest is: on a server, or in a SQLite file.

    `file` is relative to the data folder unless absolute.
    """

    file: Path | None = None
    url: URL | None = None
    max_size: int = _POOL


@dataclass(frozen=True, slots=True)
class SpacePlan:
    """A storage space; `directory` relative to the data folder unless absolute."""

    name: str
    directory: Path
    provider: str = "default"
    conflict_policy: Literal["replace", "keep"] = "replace"
    internal_url: str | None = None  # DICOMweb root that events name
    external_url: str | None = None  # DICOMweb root that clients see


@dataclass(frozen=True, slots=True)
class StowPlan:
    """An instance binding to a STOW-RS target."""

    name: str
    endpoint: str
    token: SecretStr | None
    selector: str | None
    concurrency: int


@dataclass(frozen=True, slots=True)
class CStorePlan:
    """An instance binding to a C-STORE target. `tls` are the DIMSE_TLS_* keys."""

    name: str
    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    tls: Mapping[str, SecretStr]
    selector: str | None
    concurrency: int


@dataclass(frozen=True, slots=True)
class FhirPlan:
    """A study binding to a FHIR R4 server."""

    name: str
    endpoint: str | None
    imaging_study_endpoint: str | None
    token: SecretStr | None
    username: str | None
    password: SecretStr | None
    selector: str | None
    concurrency: int
    time_zone: str | None = None  # IANA name, of times without an offset
    patient_id_system: str | None = None  # namespace URI of Patient IDs without issuer


BindingPlan = StowPlan | CStorePlan | FhirPlan


@dataclass(frozen=True, slots=True)
class CorePlan:
    """A core with what belongs to it."""

    name: str
    database: DatabasePlan
    revisioning_delay: timedelta
    spaces: Sequence[SpacePlan]
    bindings: Sequence[BindingPlan]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """Everything that one machine is to run; the first space is the default one."""

    cores: Sequence[CorePlan]


def built_in_plan() -> SitePlan:
    """The site of `up` without a file: one core, one space, SQLite, a local folder."""
    space = SpacePlan(DEFAULT_SPACE, Path("spaces") / DEFAULT_SPACE)
    database = _own_file(DEFAULT_CORE)
    return SitePlan((CorePlan(DEFAULT_CORE, database, timedelta(seconds=30), (space,), ()),))


def runnable(site: Site) -> SitePlan:
    """What is to be run. Raises SiteError with everything that stands in the way."""
    return _Planner(site).plan()


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
        services = self._of_cores(DicomwebIngestionService, self._space)
        instance_bindings = self._of_cores(DicomInstanceBinding, self._instance_binding)
        study_bindings = self._of_cores(DicomStudyBinding, self._study_binding)
        cores = self._site.of(DicomEventDrivenIngestion)
        if not cores:
            self._problem("the site has no DicomEventDrivenIngestion: one core is needed")
        elif not self._site.of(DicomwebIngestionService):
            self._problem("the site has no DicomwebIngestionService: one space is needed")
        plans = []
        for core, place in cores:
            bindings: list[tuple[BindingPlan, str]] = [
                *instance_bindings.get(core.name, ()),
                *study_bindings.get(core.name, ()),
            ]
            self._check_names(bindings)
            plan = CorePlan(
                core.name,
                self._database(core, place),
                core.spec.revisioningDelay,
                self._spaces(services.get(core.name, ())),
                tuple(binding for binding, _ in bindings),
            )
            plans.append((plan, place))
        self._check_spaces([plan for plan, _ in plans])
        self._check_databases(plans)
        if self._problems:
            raise SiteError(self._problems)
        return SitePlan(
            tuple(sorted((plan for plan, _ in plans), key=lambda plan: not plan.spaces))
        )

    def _problem(self, sentence: str) -> None:
        self._problems.append(sentence)

    def _of_cores(
        self, kind: type[_OfCore], planned: Callable[[_OfCore, str], _Plan | None]
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
            plan = planned(resource, place)
            if plan is not None:
                found.setdefault(core, []).append((plan, place))
        return found

    def _spaces(self, services: Sequence[tuple[SpacePlan, str]]) -> tuple[SpacePlan, ...]:
        """The spaces of a core: several services may serve one, if they agree on it."""
        spaces: dict[str, SpacePlan] = {}
        for space, place in services:
            if spaces.setdefault(space.name, space) != space:
                self._problem(
                    f"{place}: another service declares the space {space.name} differently"
                )
        return tuple(spaces.values())

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

    def _database(self, core: DicomEventDrivenIngestion, place: str) -> DatabasePlan:
        spec = core.spec
        settings = read_settings(
            self._site,
            place,
            ("spec.databaseConfigName", spec.databaseConfigName),
            ("spec.databaseSecretName", spec.databaseSecretName),
            self._problem,
        )
        if not settings:
            return _own_file(core.name)
        kind = (settings.text("DB_KIND") or "postgresql").lower()
        name = settings.text("DB_NAME")
        if kind == "sqlite":
            return DatabasePlan(file=Path(name)) if name else _own_file(core.name)
        if kind not in {"postgresql", "postgres"}:
            self._problem(f"{settings.place('DB_KIND')}: sqlite or postgresql was expected")
        password = settings.secret("DB_PASS")
        url = URL.create(
            "postgresql",
            username=settings.text("DB_USER"),
            password=password.get_secret_value() if password else None,
            host=settings.text("DB_HOST") or "localhost",
            port=settings.number("DB_PORT", 5432, 65535),
            database=name or "postgres",
        )
        size = settings.number("DATASOURCE_MAX_SIZE", _POOL, _LARGEST_POOL)
        return DatabasePlan(url=url, max_size=size)

    def _space(self, service: DicomwebIngestionService, place: str) -> SpacePlan | None:
        spec = service.spec
        settings = read_settings(
            self._site,
            place,
            ("spec.bucketConfigName", spec.bucketConfigName),
            ("spec.bucketSecretName", spec.bucketSecretName),
            self._problem,
        )
        name = spec.bucketConfigName or DEFAULT_SPACE
        directory = settings.text("LOCAL_STORAGE_PATH")
        store = settings.any_of(_OBJECT_STORES)
        if directory is None and store is not None:
            self._problem(
                f"{settings.place(store)}: object stores come in a later version; "
                "LOCAL_STORAGE_PATH was expected"
            )
            return None
        return SpacePlan(
            name=name,
            directory=Path(directory) if directory else Path("spaces") / name,
            provider=spec.providerName,
            conflict_policy=spec.conflictPolicy,
            internal_url=settings.url("WADO_INTERNAL_ENDPOINT", path=False),
            external_url=settings.url("WADO_EXTERNAL_ENDPOINT", path=False),
        )

    def _binding_settings(
        self, binding: DicomInstanceBinding | DicomStudyBinding, place: str, needed: Sequence[str]
    ) -> Settings | None:
        """A binding's settings; None if none of the `needed` keys is there, which is a problem."""
        spec, before = binding.spec, len(self._problems)
        settings = read_settings(
            self._site,
            place,
            ("spec.bindingConfigName", spec.bindingConfigName),
            ("spec.bindingSecretName", spec.bindingSecretName),
            self._problem,
        )
        if settings.any_of(key for key in needed if settings.text(key)) is not None:
            return settings
        if len(self._problems) == before:  # else the reason is told already
            what = " or ".join(needed)
            where = f"ConfigMap {spec.bindingConfigName}" if spec.bindingConfigName else "ConfigMap"
            self._problem(f"{place}: spec.bindingConfigName: a {where} with {what} was expected")
        return None

    def _instance_binding(
        self, binding: DicomInstanceBinding, place: str
    ) -> StowPlan | CStorePlan | None:
        settings = self._binding_settings(binding, place, ("STOW_ENDPOINT", "DIMSE_TARGET_HOST"))
        if settings is None:
            return None
        host = settings.text("DIMSE_TARGET_HOST")
        if host is not None:
            return self._cstore_plan(binding, settings, host)
        endpoint = settings.url("STOW_ENDPOINT")
        if endpoint is None:
            return None
        return StowPlan(
            binding.name,
            endpoint,
            settings.secret("STOW_AUTH_TOKEN"),
            settings.text("SELECTOR"),
            binding.spec.instanceBinding.concurrency or DEFAULT_CONCURRENCY,
        )

    def _cstore_plan(
        self, binding: DicomInstanceBinding, settings: Settings, host: str
    ) -> CStorePlan | None:
        if settings.text("STOW_ENDPOINT") is not None:
            self._problem(
                f"{settings.place('DIMSE_TARGET_HOST')}: STOW_ENDPOINT is there, too; a binding "
                "has one target"
            )
        titles = [
            settings.ae_title(key, default)
            for key, default in (("DIMSE_TARGET_AE", None), ("DIMSE_AE", DEFAULT_AE_TITLE))
        ]
        if None in titles:
            return None
        ae_title, calling_ae_title = map(str, titles)
        return CStorePlan(
            name=binding.name,
            host=host,
            port=settings.number("DIMSE_TARGET_PORT", DICOM_PORT, 65535),
            ae_title=ae_title,
            calling_ae_title=calling_ae_title,
            tls=settings.secrets("DIMSE_TLS_"),
            selector=settings.text("SELECTOR"),
            concurrency=binding.spec.instanceBinding.concurrency or DEFAULT_CONCURRENCY,
        )

    def _study_binding(self, binding: DicomStudyBinding, place: str) -> FhirPlan | None:
        needed = ("FHIR_ENDPOINT", "IMAGINGSTUDY_ENDPOINT", "IMAGING_STUDY_ENDPOINT")
        settings = self._binding_settings(binding, place, needed)
        if settings is None:
            return None
        endpoint, *imaging_study = [settings.url(key) for key in needed]
        return FhirPlan(
            name=binding.name,
            endpoint=endpoint,
            imaging_study_endpoint=next(filter(None, imaging_study), None),
            token=settings.secret("FHIR_AUTH_TOKEN"),
            username=settings.text("FHIR_AUTH_USERNAME"),
            password=settings.secret("FHIR_AUTH_PASSWORD"),
            selector=settings.text("SELECTOR"),
            concurrency=binding.spec.studyBinding.concurrency or DEFAULT_CONCURRENCY,
            time_zone=settings.text("FHIR_TIME_ZONE"),
            patient_id_system=settings.text("FHIR_PATIENT_ID_SYSTEM"),
        )


def _own_file(core: str) -> DatabasePlan:
    """The database of a core that names none."""
    return DatabasePlan(file=Path(f"{core}.db"))

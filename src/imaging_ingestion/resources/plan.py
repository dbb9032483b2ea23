"""From declared resources to what one machine is to run: references resolved, settings typed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import SecretStr
from sqlalchemy.engine import URL

from imaging_ingestion.resources.models import (
    ConfigMap,
    DicomEventBridge,
    DicomEventDrivenIngestion,
    DicomInstanceBinding,
    DicomStudyBinding,
    DicomwebIngestionService,
    DimseIngestionService,
    DimseProxy,
    Secret,
)
from imaging_ingestion.resources.site_file import Site, SiteError

DEFAULT_CORE = "core"
DEFAULT_SPACE = "default"
#: Deliveries at once where the resource leaves it open (0).
DEFAULT_CONCURRENCY = 8
_POOL = 16

_OBJECT_STORES = ("BUCKET_NAME", "AZURE_CONTAINER_NAME", "AZURE_STORAGE_CONNECTION_STRING")
_OfCore = TypeVar("_OfCore", DicomwebIngestionService, DicomInstanceBinding, DicomStudyBinding)


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """Where a manifest is; `url` None is a SQLite file in the data folder."""

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


@dataclass(frozen=True, slots=True)
class CorePlan:
    """A core with what belongs to it."""

    name: str
    database: DatabasePlan
    revisioning_delay: timedelta
    spaces: Sequence[SpacePlan]
    bindings: Sequence[StowPlan | FhirPlan]


@dataclass(frozen=True, slots=True)
class SitePlan:
    """Everything that one machine is to run; the first space is the default one."""

    cores: Sequence[CorePlan]


def built_in_plan() -> SitePlan:
    """The site of `up` without a file: one core, one space, SQLite, a local folder."""
    space = SpacePlan(DEFAULT_SPACE, Path("spaces") / DEFAULT_SPACE)
    return SitePlan((CorePlan(DEFAULT_CORE, DatabasePlan(), timedelta(seconds=30), (space,), ()),))


def runnable(site: Site) -> SitePlan:
    """What is to be run. Raises SiteError with everything that stands in the way."""
    return _Planner(site).plan()


class _Planner:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._problems: list[str] = []

    def plan(self) -> SitePlan:
        later = (DimseIngestionService, DimseProxy, DicomEventBridge)
        for kind in later:
            for _, place in self._site.of(kind):
                self._problems.append(
                    f"{place}: {kind.__name__} is not run by this version; take it out of the site"
                )
        cores = self._site.of(DicomEventDrivenIngestion)
        if not cores:
            self._problems.append("the site has no DicomEventDrivenIngestion: one core is needed")
        plans = tuple(self._core(core, place) for core, place in cores)
        names: dict[str, str] = {}
        for plan in plans:
            for space in plan.spaces:
                if space.name in names:
                    self._problems.append(
                        f"the space {space.name} belongs to two cores: {names[space.name]} and "
                        f"{plan.name}"
                    )
                names[space.name] = plan.name
        if cores and not names:
            self._problems.append("the site has no DicomwebIngestionService: one space is needed")
        if self._problems:
            raise SiteError(self._problems)
        return SitePlan(tuple(sorted(plans, key=lambda plan: not plan.spaces)))

    def _core(self, core: DicomEventDrivenIngestion, place: str) -> CorePlan:
        spec = core.spec
        settings = self._settings(
            place, "spec.databaseConfigName", spec.databaseConfigName, spec.databaseSecretName
        )
        spaces: dict[str, SpacePlan] = {}
        for service, where in self._of_core(DicomwebIngestionService, core.name):
            space = self._space(service, where)
            if space is not None and spaces.setdefault(space.name, space) != space:
                self._problems.append(
                    f"{where}: another service declares the space {space.name} differently"
                )
        bindings: list[StowPlan | FhirPlan] = []
        for instance_binding, where in self._of_core(DicomInstanceBinding, core.name):
            if (stow := self._instance_binding(instance_binding, where)) is not None:
                bindings.append(stow)
        for study_binding, where in self._of_core(DicomStudyBinding, core.name):
            if (fhir := self._study_binding(study_binding, where)) is not None:
                bindings.append(fhir)
        taken: set[str] = set()
        for binding_plan in bindings:
            if binding_plan.name in taken:
                self._problems.append(
                    f"{place}: two of its bindings are named {binding_plan.name}; the ledger goes "
                    "by the name"
                )
            taken.add(binding_plan.name)
        return CorePlan(
            core.name,
            self._database(settings, place),
            spec.revisioningDelay,
            tuple(spaces.values()),
            tuple(bindings),
        )

    def _of_core(self, kind: type[_OfCore], core: str) -> list[tuple[_OfCore, str]]:
        found = []
        for resource, place in self._site.of(kind):
            named = resource.spec.dicomEventDrivenIngestionName
            if named == core:
                found.append((resource, place))
            elif self._site.find(DicomEventDrivenIngestion, named) is None:
                problem = (
                    f"{place}: spec.dicomEventDrivenIngestionName: there is no "
                    f"DicomEventDrivenIngestion named {named}"
                )
                if problem not in self._problems:
                    self._problems.append(problem)
        return found

    def _settings(
        self, place: str, field: str, config: str | None, secret: str | None
    ) -> dict[str, str]:
        """The keys of a ConfigMap and a Secret together."""
        settings: dict[str, str] = {}
        if config is not None:
            config_map = self._site.find(ConfigMap, config)
            if config_map is None:
                self._problems.append(f"{place}: {field}: there is no ConfigMap named {config}")
            else:
                settings |= config_map.data
        if secret is not None:
            found = self._site.find(Secret, secret)
            if found is None:
                name = field.replace("Config", "Secret")
                self._problems.append(f"{place}: {name}: there is no Secret named {secret}")
            else:
                settings |= self._secret_values(found)
        return {key: value.strip() for key, value in settings.items()}

    def _has_config(self, name: str | None) -> bool:
        """Whether a missing key is the problem, and not a missing ConfigMap, told already."""
        return name is None or self._site.find(ConfigMap, name) is not None

    def _secret_values(self, secret: Secret) -> dict[str, str]:
        values = {}
        for key, encoded in secret.data.items():
            try:
                values[key] = base64.b64decode(encoded, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                self._problems.append(
                    f"Secret {secret.name}: data.{key}: base64 of a text was expected"
                )
        return values | dict(secret.stringData)

    def _database(self, settings: Mapping[str, str], place: str) -> DatabasePlan:
        if not settings:
            return DatabasePlan()
        kind = settings.get("DB_KIND", "postgresql").lower()
        if kind == "sqlite":
            path = settings.get("DB_NAME")
            return DatabasePlan(URL.create("sqlite", database=path) if path else None)
        if kind not in {"postgresql", "postgres"}:
            self._problems.append(f"{place}: DB_KIND: sqlite or postgresql expected, found {kind}")
            return DatabasePlan()
        port = self._number(settings, "DB_PORT", 5432, place)
        url = URL.create(
            "postgresql",
            username=settings.get("DB_USER"),
            password=settings.get("DB_PASS"),
            host=settings.get("DB_HOST", "localhost"),
            port=port,
            database=settings.get("DB_NAME", "postgres"),
        )
        return DatabasePlan(url, self._number(settings, "DATASOURCE_MAX_SIZE", _POOL, place))

    def _number(self, settings: Mapping[str, str], key: str, default: int, place: str) -> int:
        text = settings.get(key)
        if text is None:
            return default
        if text.isdigit() and 0 < int(text) < 65536:
            return int(text)
        self._problems.append(f"{place}: {key}: a number was expected, found {text!r}")
        return default

    def _space(self, service: DicomwebIngestionService, place: str) -> SpacePlan | None:
        spec = service.spec
        settings = self._settings(
            place, "spec.bucketConfigName", spec.bucketConfigName, spec.bucketSecretName
        )
        name = spec.bucketConfigName or DEFAULT_SPACE
        directory = settings.get("LOCAL_STORAGE_PATH")
        if directory is None and any(key in settings for key in _OBJECT_STORES):
            self._problems.append(
                f"{place}: spec.bucketConfigName: object stores come in a later version; "
                "LOCAL_STORAGE_PATH was expected"
            )
            return None
        return SpacePlan(
            name=name,
            directory=Path(directory) if directory else Path("spaces") / name,
            provider=spec.providerName,
            conflict_policy=spec.conflictPolicy,
            internal_url=settings.get("WADO_INTERNAL_ENDPOINT"),
            external_url=settings.get("WADO_EXTERNAL_ENDPOINT"),
        )

    def _instance_binding(self, binding: DicomInstanceBinding, place: str) -> StowPlan | None:
        spec = binding.spec
        settings = self._settings(
            place, "spec.bindingConfigName", spec.bindingConfigName, spec.bindingSecretName
        )
        if "DIMSE_TARGET_HOST" in settings:
            self._problems.append(f"{place}: C-STORE bindings come in a later version")
            return None
        endpoint = self._url(settings, "STOW_ENDPOINT", place)
        if endpoint is None:
            if "STOW_ENDPOINT" not in settings and self._has_config(spec.bindingConfigName):
                self._problems.append(f"{place}: STOW_ENDPOINT is missing from its ConfigMap")
            return None
        return StowPlan(
            binding.name,
            endpoint,
            _secret(settings, "STOW_AUTH_TOKEN"),
            settings.get("SELECTOR"),
            spec.instanceBinding.concurrency or DEFAULT_CONCURRENCY,
        )

    def _study_binding(self, binding: DicomStudyBinding, place: str) -> FhirPlan | None:
        spec = binding.spec
        settings = self._settings(
            place, "spec.bindingConfigName", spec.bindingConfigName, spec.bindingSecretName
        )
        fhir = self._url(settings, "FHIR_ENDPOINT", place)
        imaging_study = self._url(settings, "IMAGINGSTUDY_ENDPOINT", place) or self._url(
            settings, "IMAGING_STUDY_ENDPOINT", place
        )
        if fhir is None and imaging_study is None:
            if self._has_config(spec.bindingConfigName):
                self._problems.append(
                    f"{place}: FHIR_ENDPOINT (or IMAGINGSTUDY_ENDPOINT) is missing from its "
                    "ConfigMap"
                )
            return None
        return FhirPlan(
            name=binding.name,
            endpoint=fhir,
            imaging_study_endpoint=imaging_study,
            token=_secret(settings, "FHIR_AUTH_TOKEN"),
            username=settings.get("FHIR_AUTH_USERNAME"),
            password=_secret(settings, "FHIR_AUTH_PASSWORD"),
            selector=settings.get("SELECTOR"),
            concurrency=spec.studyBinding.concurrency or DEFAULT_CONCURRENCY,
        )

    def _url(self, settings: Mapping[str, str], key: str, place: str) -> str | None:
        """An absolute http(s) URL, or a path on this server."""
        text = settings.get(key)
        if not text:
            return None
        if text.startswith(("http://", "https://", "/")):
            return text
        self._problems.append(f"{place}: {key}: http://…, https://… or /path expected")
        return None


def _secret(settings: Mapping[str, str], key: str) -> SecretStr | None:
    value = settings.get(key)
    return SecretStr(value) if value else None

"""Where things are kept: a core's database, a service's storage space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy.engine import URL

from imaging_ingestion.resources.models import (
    DicomEventDrivenIngestion,
    DicomwebIngestionService,
    DimseIngestionService,
)
from imaging_ingestion.resources.plan import (
    DEFAULT_SPACE,
    POOL,
    TLS_MODES,
    DatabasePlan,
    RetentionPlan,
    SpacePlan,
)
from imaging_ingestion.resources.quantity import read_quantity
from imaging_ingestion.resources.setting_values import Settings, read_settings
from imaging_ingestion.resources.site_file import Site

_LARGEST_POOL: Final = 1000
_LONGEST_TIMEOUT: Final = 3600
#: Beginnings of the keys of object stores, and those that say that a space is in one.
_STORE_KEYS: Final = ("BUCKET_", "AWS_", "AZURE_", "GCS_", "GOOGLE_")
_STORES: Final = (
    "BUCKET_NAME",
    "BUCKET_HOST",
    "AZURE_CONTAINER_NAME",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "GCS_BUCKET_NAME",
)


@dataclass(frozen=True, slots=True)
class SpaceRules:
    """Fields of a `SpacePlan` that a service declares: each with its path and its value."""

    space: str
    said: Mapping[str, tuple[str, Any]]


def own_database(core: str) -> DatabasePlan:
    """The database of a core that names none."""
    return DatabasePlan(file=Path(f"{core}.db"))


def own_directory(space: str) -> Path:
    """The folder of a space that names none."""
    return Path("spaces") / space


def scratch_directory(space: str) -> Path:
    """The folder of what is on its way to a bucket."""
    return Path("scratch") / space


def database_plan(
    site: Site, core: DicomEventDrivenIngestion, place: str, problems: list[str]
) -> DatabasePlan:
    """The database of a core."""
    spec = core.spec
    settings = read_settings(
        site,
        place,
        ("spec.databaseConfigName", spec.databaseConfigName),
        ("spec.databaseSecretName", spec.databaseSecretName),
        problems.append,
    )
    if not settings:
        return own_database(core.name)
    kind = (settings.text("DB_KIND") or "postgresql").lower()
    name = settings.text("DB_NAME")
    if kind == "sqlite":
        return DatabasePlan(file=Path(name)) if name else own_database(core.name)
    if kind not in {"postgresql", "postgres"}:
        problems.append(f"{settings.place('DB_KIND')}: sqlite or postgresql was expected")
    password = settings.secret("DB_PASS")
    url = URL.create(
        "postgresql",
        username=settings.text("DB_USER"),
        password=password.get_secret_value() if password else None,
        host=settings.text("DB_HOST") or "localhost",
        port=settings.number("DB_PORT", 5432, 65535),
        database=name or "postgres",
    )
    said = (settings.text("DB_SSLMODE") or "prefer").lower()
    mode = next((mode for mode in TLS_MODES if mode == said), None)
    if mode is None:
        problems.append(f"{settings.place('DB_SSLMODE')}: one of {', '.join(TLS_MODES)} expected")
    ca = settings.text("DB_SSLROOTCERT")
    return DatabasePlan(
        url=url,
        max_size=settings.number("DATASOURCE_MAX_SIZE", POOL, _LARGEST_POOL),
        statement_timeout=_seconds(settings, "DB_STATEMENT_TIMEOUT", 30),
        connect_timeout=_seconds(settings, "DB_CONNECT_TIMEOUT", 5),
        pool_timeout=_seconds(settings, "DB_POOL_TIMEOUT", 10),
        tls=mode or "verify-full",
        tls_ca=Path(ca) if ca else None,
    )


def _seconds(settings: Settings, key: str, default: int) -> timedelta:
    return timedelta(seconds=settings.number(key, default, _LONGEST_TIMEOUT))


def space_rules(
    _site: Site,
    service: DicomwebIngestionService | DimseIngestionService,
    place: str,
    problems: list[str],
) -> SpaceRules:
    """What a service says of the rules of its space."""
    spec = service.spec
    said: dict[str, tuple[str, Any]] = {}
    if spec.conflictPolicy is not None:
        said["conflict_policy"] = "spec.conflictPolicy", spec.conflictPolicy
    if spec.patientConflictPolicy is not None:
        said["patient_conflict_policy"] = (
            "spec.patientConflictPolicy",
            spec.patientConflictPolicy,
        )
    if spec.retention is not None:
        size = spec.retention.maxSize
        plan = RetentionPlan(
            spec.retention.maxAgeDays, None if size is None else read_quantity(size)
        )
        if plan == RetentionPlan():
            problems.append(f"{place}: spec.retention: maxAgeDays or maxSize was expected")
        said["retention"] = "spec.retention", plan
    return SpaceRules(spec.bucketConfigName or DEFAULT_SPACE, said)


def space_plan(
    site: Site,
    service: DicomwebIngestionService | DimseIngestionService,
    place: str,
    problems: list[str],
) -> SpacePlan:
    """The space of a service."""
    spec = service.spec
    settings = read_settings(
        site,
        place,
        ("spec.bucketConfigName", spec.bucketConfigName),
        ("spec.bucketSecretName", spec.bucketSecretName),
        problems.append,
    )
    name = spec.bucketConfigName or DEFAULT_SPACE
    directory = settings.text("LOCAL_STORAGE_PATH")
    bucket: dict[str, SecretStr] = {}
    if directory is not None:
        folder = Path(directory)
    elif settings.any_of(_STORES) is not None:
        folder = scratch_directory(name)
        for beginning in _STORE_KEYS:
            bucket |= settings.secrets(beginning)
    else:
        folder = own_directory(name)
    return SpacePlan(
        name=name,
        directory=folder,
        bucket=bucket,
        provider=spec.providerName,
        internal_url=settings.url("WADO_INTERNAL_ENDPOINT", path=False),
        external_url=settings.url("WADO_EXTERNAL_ENDPOINT", path=False),
    )

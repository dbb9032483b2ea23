"""Where things are kept: a core's database, a service's storage space."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import SecretStr
from sqlalchemy.engine import URL

from imaging_ingestion.resources.models import (
    DicomEventDrivenIngestion,
    DicomwebIngestionService,
    DimseIngestionService,
)
from imaging_ingestion.resources.plan import DEFAULT_SPACE, POOL, DatabasePlan, SpacePlan
from imaging_ingestion.resources.setting_values import read_settings
from imaging_ingestion.resources.site_file import Site

_LARGEST_POOL: Final = 1000
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
    size = settings.number("DATASOURCE_MAX_SIZE", POOL, _LARGEST_POOL)
    return DatabasePlan(url=url, max_size=size)


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
        conflict_policy="replace"
        if isinstance(service, DimseIngestionService)
        else service.spec.conflictPolicy,
        internal_url=settings.url("WADO_INTERNAL_ENDPOINT", path=False),
        external_url=settings.url("WADO_EXTERNAL_ENDPOINT", path=False),
    )

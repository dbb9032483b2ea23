"""What a DIMSE service's files and secrets say: read, and found usable, before anything starts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from imaging_ingestion.association.config import (
    SOP_CLASS_FILE,
    TRANSFER_SYNTAX_FILE,
    ConfigFileError,
    StorageContexts,
    read_storage_contexts,
)
from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.identity import (
    DEFAULT_ALGORITHMS,
    IdentityConfigError,
    TokenSettings,
    UserIdentities,
)
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.services.destination import Connector
from imaging_ingestion.association.tls import TlsError, TlsFiles, tls_settings
from imaging_ingestion.resources.plan import DimsePlan, IdentityPlan, SitePlan
from imaging_ingestion.resources.site_file import SiteError

#: An archive that has received an instance of gigabytes has to put it somewhere.
_RESPONSE: Final = 180.0  # seconds


@dataclass(frozen=True, slots=True)
class DimseParts:
    """`tls` is for those who call; `connector` calls others."""

    storage: StorageContexts
    tls: TlsFiles | None
    connector: Connector
    identities: UserIdentities | None


async def read_dimse_parts(plan: SitePlan) -> dict[str, DimseParts]:
    """The parts of each service, by its name. Raises SiteError."""
    parts: dict[str, DimseParts] = {}
    problems = []
    for service in (service for core in plan.cores for service in core.dimse):
        try:
            parts[service.name] = DimseParts(
                await asyncio.to_thread(_storage, service),
                await _tls_to_accept(service),
                await _connector(service),
                _identities(service.identities),
            )
        except (ConfigFileError, TlsError, IdentityConfigError) as error:
            problems.append(f"DIMSE service {service.name}: {error}")
    if problems:
        raise SiteError(problems)
    return parts


def _storage(plan: DimsePlan) -> StorageContexts:
    """What may be stored. Raises ConfigFileError."""
    folder = plan.config_path
    if folder is None:
        return StorageContexts()
    names = (SOP_CLASS_FILE, TRANSFER_SYNTAX_FILE)
    if not any((folder / name).exists() for name in names):
        # Nothing would be restricted, where somebody wants it to be.
        raise ConfigFileError(f"DIMSE_CONFIG_PATH: {folder} has neither {' nor '.join(names)}")
    try:
        return read_storage_contexts(folder)
    except OSError as error:
        raise ConfigFileError(f"{error.filename or folder}: {error.strerror}") from error


async def _tls_to_accept(plan: DimsePlan) -> TlsFiles | None:
    """TLS for those who call, if it is enabled. Raises TlsError."""
    settings = tls_settings(_plain(plan))
    if settings is None:
        return None
    files = TlsFiles(settings, is_server=True)
    await files.current()  # what is wrong with them is to be told now
    return files


async def _connector(plan: DimsePlan) -> Connector:
    """What calls the destinations. Raises TlsError."""
    limits = AssociationLimits(response=_RESPONSE)
    tls = None
    sources = (one.entity for one in plan.sources if one.entity is not None)
    if any(one.tls for one in (*plan.destinations, *sources)):
        settings = tls_settings(_plain(plan) | {"DIMSE_TLS_ENABLED": "true"})
        assert settings is not None
        files = TlsFiles(settings, is_server=False)
        await files.current()
        tls = ConnectSettings(tls=files, limits=limits)
    return Connector(ConnectSettings(limits=limits), tls)


def _plain(plan: DimsePlan) -> dict[str, str]:
    return {key: value.get_secret_value() for key, value in plan.tls.items()}


def _identities(plan: IdentityPlan | None) -> UserIdentities | None:
    """What judges user identities, if any are configured. Raises IdentityConfigError."""
    if plan is None:
        return None
    tokens = None
    if plan.token_key is not None:
        tokens = TokenSettings(
            plan.token_key.get_secret_value(),
            plan.token_algorithms or DEFAULT_ALGORITHMS,
            plan.token_issuer,
            plan.token_audience,
        )
    return UserIdentities(
        usernames=plan.usernames,
        passcodes={name: one.get_secret_value() for name, one in plan.passcodes.items()},
        tokens=tokens,
    )

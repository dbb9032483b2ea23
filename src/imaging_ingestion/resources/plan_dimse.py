"""DIMSE ingestion services: under which title and port, for whom, and whom they may call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from imaging_ingestion.resources.models import DimseIngestionService, DimseIngestionServiceSpec
from imaging_ingestion.resources.plan import (
    DEFAULT_AE_TITLE,
    DEFAULT_SPACE,
    DIMSE_PORT,
    DestinationPlan,
    DimsePlan,
    IdentityPlan,
)
from imaging_ingestion.resources.plan_sources import dimse_sources
from imaging_ingestion.resources.plan_tunnel import service_nats
from imaging_ingestion.resources.setting_values import Settings, read_settings
from imaging_ingestion.resources.site_file import Site

_TOKEN_DETAILS = ("DIMSE_JWT_ALGORITHMS", "DIMSE_JWT_ISSUER", "DIMSE_JWT_AUDIENCE")


def dimse_plan(
    site: Site, service: DimseIngestionService, place: str, problems: list[str]
) -> DimsePlan:
    """What a service is to be; `problems` says whether it can be that."""
    spec = service.spec
    settings = read_settings(
        site,
        place,
        ("spec.dimseConfigName", spec.dimseConfigName),
        ("spec.dimseSecretName", spec.dimseSecretName),
        problems.append,
    )
    nats = service_nats(site, spec, settings, place, problems)
    config_path = settings.text("DIMSE_CONFIG_PATH")
    callers = spec.callingApplicationEntityTitles
    return DimsePlan(
        name=service.name,
        space=spec.bucketConfigName or DEFAULT_SPACE,
        provider=spec.providerName,
        ae_title=_ae_title(spec, settings),
        port=_port(spec, settings, has_other_way=nats is not None),
        tls=settings.secrets("DIMSE_TLS_"),
        config_path=Path(config_path) if config_path else None,
        destinations=_destinations(spec, place, problems),
        calling_ae_titles=None if callers is None else frozenset(callers),
        identities=_identities(settings, problems),
        nats=nats,
        sources=dimse_sources(site, spec, place, problems),
        place=place,
    )


def _ae_title(spec: DimseIngestionServiceSpec, settings: Settings) -> str:
    """The resource's counts, then the key's."""
    if "applicationEntityTitle" in spec.model_fields_set:
        return spec.applicationEntityTitle
    return settings.ae_title("DIMSE_AE", DEFAULT_AE_TITLE) or DEFAULT_AE_TITLE


def _port(
    spec: DimseIngestionServiceSpec, settings: Settings, *, has_other_way: bool
) -> int | None:
    """The resource's counts, then the key's. What has another way in needs none."""
    if spec.port is not None:
        return spec.port
    if has_other_way and "DIMSE_PORT" not in settings:
        return None
    return settings.number("DIMSE_PORT", DIMSE_PORT, 65535, least=0)


def _destinations(
    spec: DimseIngestionServiceSpec, place: str, problems: list[str]
) -> tuple[DestinationPlan, ...]:
    found: dict[str, DestinationPlan] = {}
    for number, one in enumerate(spec.destinations):
        title = one.applicationEntityTitle
        if title.lower() in found:
            problems.append(
                f"{place}: spec.destinations[{number}].applicationEntityTitle: {title} stands "
                "there twice (titles are compared without regard to case)"
            )
        found.setdefault(title.lower(), DestinationPlan(title, one.host, one.port, one.tls))
    return tuple(found.values())


def _identities(settings: Settings, problems: list[str]) -> IdentityPlan | None:
    """What identities are verified; None: none are."""
    usernames = settings.words("DIMSE_USERNAMES")
    passcodes = _passcodes(settings, problems)
    key = settings.secret("DIMSE_JWT_KEY")
    verifies = bool(usernames or passcodes or key)
    required = settings.flag("DIMSE_IDENTITY_REQUIRED", default=verifies)
    if key is None:
        for name in _TOKEN_DETAILS:
            if name in settings:
                problems.append(f"{settings.place(name)}: DIMSE_JWT_KEY was expected beside it")
    if not verifies:
        if required:
            problems.append(
                f"{settings.place('DIMSE_IDENTITY_REQUIRED')}: DIMSE_USERNAMES, DIMSE_PASSCODES or "
                "DIMSE_JWT_KEY was expected beside it: nobody could call otherwise"
            )
        return None
    return IdentityPlan(
        usernames=usernames,
        passcodes=passcodes,
        token_key=key,
        token_algorithms=settings.words("DIMSE_JWT_ALGORITHMS"),
        token_issuer=settings.text("DIMSE_JWT_ISSUER"),
        token_audience=settings.text("DIMSE_JWT_AUDIENCE"),
        required=required,
    )


def _passcodes(settings: Settings, problems: list[str]) -> Mapping[str, SecretStr]:
    """The lines `name:passcode`. What is wrong is told by number: a line is a secret."""
    text = settings.secret("DIMSE_PASSCODES")
    found: dict[str, SecretStr] = {}
    lines = text.get_secret_value().splitlines() if text else []
    for number, line in enumerate(lines, 1):
        name, colon, passcode = line.strip().partition(":")
        where = f"{settings.place('DIMSE_PASSCODES')}, line {number}"
        if not (name or colon):
            continue
        if not (name and passcode):
            problems.append(f"{where}: NAME:PASSCODE was expected")
        elif name in found:
            problems.append(f"{where}: the name stands there twice")
        else:
            found[name] = SecretStr(passcode)
    return found

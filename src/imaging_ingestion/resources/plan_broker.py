"""What carries the events of a core."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from imaging_ingestion.nats_client.settings import server_urls
from imaging_ingestion.resources.models import DicomEventDrivenIngestion
from imaging_ingestion.resources.parts import Broker
from imaging_ingestion.resources.plan import BrokerPlan
from imaging_ingestion.resources.setting_values import Settings, is_url, read_settings
from imaging_ingestion.resources.site_file import Site

#: Keys of the Secret that `natsTokenSecret` names.
TOKEN_KEY: Final = "token"  # noqa: S105 - its name
USER_KEY: Final = "NATS_USER"
PASSWORD_KEY: Final = "NATS_PASSWORD"  # noqa: S105 - its name

_ROOT: Final = re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*")
_OF_KIND: Final = {
    "jetstream": (
        "natsUrl",
        "natsSecure",
        "natsCa",
        "natsTokenSecret",
        "natsSubjectRoot",
        "replicas",
        "maxAge",
    ),
    "knative": ("sink",),
}
#: Those that say something to a server that is not the site's own.
_TO_ANOTHER: Final = ("natsSecure", "natsCa", "natsTokenSecret")


def broker_plan(
    site: Site, core: DicomEventDrivenIngestion, place: str, problems: list[str]
) -> BrokerPlan:
    """The broker of a core; `problems` says whether it can be that."""
    spec, field = core.spec.broker, f"{place}: spec.broker"
    for kind, names in _OF_KIND.items():
        problems += [
            f"{field}.{name}: it is for kind {kind}, and this is {spec.kind}"
            for name in names
            if kind != spec.kind and name in spec.model_fields_set
        ]
    if spec.kind == "knative":
        if spec.sink is not None and not is_url(spec.sink):
            problems.append(f"{field}.sink: http://HOST… or https://HOST… was expected")
        return BrokerPlan("knative", sink=spec.sink, place=place)
    if spec.kind == "embedded":
        return BrokerPlan(place=place)
    return _jetstream(site, spec, field, place, problems)


def _jetstream(site: Site, spec: Broker, field: str, place: str, problems: list[str]) -> BrokerPlan:
    servers: tuple[str, ...] = ()
    if spec.natsUrl is not None:
        try:
            servers = server_urls(spec.natsUrl, tls=spec.natsSecure)
        except ValueError as error:
            problems.append(f"{field}.natsUrl: {error}")
    else:
        problems += [
            f"{field}.{name}: natsUrl was expected beside it"
            for name in _TO_ANOTHER
            if getattr(spec, name)
        ]
        if (spec.replicas or 1) > 1:
            problems.append(f"{field}.replicas: the site's own NATS server is only one")
    root = spec.natsSubjectRoot
    if root is not None and (_ROOT.fullmatch(root) is None or len(root) > 128):
        problems.append(f"{field}.natsSubjectRoot: words separated by dots were expected")
    if spec.maxAge is not None and not spec.maxAge:
        problems.append(f"{field}.maxAge: more than 0 seconds were expected")
    secret = read_settings(
        site,
        place,
        ("", None),
        ("spec.broker.natsTokenSecret", spec.natsTokenSecret),
        problems.append,
    )
    token, user, password = _identity(secret, field, spec, problems)
    return BrokerPlan(
        "jetstream",
        servers,
        spec.natsSecure or any(server.startswith("tls:") for server in servers),
        None if spec.natsCa is None else Path(spec.natsCa),
        token,
        user,
        password,
        root,
        spec.replicas or 1,
        spec.maxAge,
        place=place,
    )


def _identity(
    secret: Settings, field: str, spec: Broker, problems: list[str]
) -> tuple[SecretStr | None, str | None, SecretStr | None]:
    """Token, user and password of a Secret."""
    if spec.natsTokenSecret is None or not secret:
        return None, None, None
    token = secret.secret(TOKEN_KEY)
    user, password = secret.text(USER_KEY), secret.secret(PASSWORD_KEY)
    if (token is None) == (user is None) or (user is None) != (password is None):
        problems.append(
            f"{field}.natsTokenSecret: in {spec.natsTokenSecret} either {TOKEN_KEY} was expected, "
            f"or {USER_KEY} and {PASSWORD_KEY}"
        )
    return token, user, password

"""What one machine is to run: references resolved, settings typed. Made by `planner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import SecretStr
from sqlalchemy.engine import URL

DEFAULT_CORE: Final = "core"
DEFAULT_SPACE: Final = "default"
#: Deliveries at once where the resource leaves it open (0).
DEFAULT_CONCURRENCY: Final = 8
#: How we call ourselves where nothing else is said; the port that we listen on then, registered for
#: DICOM, which anybody may open; and the well-known one of others (PS3.8 9.1.1).
DEFAULT_AE_TITLE: Final = "INGESTION"
DIMSE_PORT: Final = 11112
DICOM_PORT: Final = 104
#: Connections to a database server.
POOL: Final = 16
#: As libpq's `sslmode`, without `allow`.
TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
TLS_MODES: Final[tuple[TlsMode, ...]] = get_args(TlsMode)


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """Where a manifest is: on a server, or in a SQLite file.

    `file` is relative to the data folder unless absolute. `tls` is one of `TLS_MODES`; with a
    `tls_ca` its certificates are trusted, else those of the operating system.
    """

    file: Path | None = None
    url: URL | None = None
    max_size: int = POOL
    statement_timeout: timedelta = timedelta(seconds=30)
    connect_timeout: timedelta = timedelta(seconds=5)
    pool_timeout: timedelta = timedelta(seconds=10)
    tls: TlsMode = "prefer"
    tls_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What a space keeps; None: no matter how old, or how much."""

    max_age: timedelta | None = None  # since the last change of a study
    max_size: int | None = None  # bytes


@dataclass(frozen=True, slots=True)
class SpacePlan:
    """A storage space.

    `directory` is relative to the data folder unless absolute. With a `bucket`, the keys that say
    where it is in an object store, it is what is kept here of objects on their way.
    """

    name: str
    directory: Path
    provider: str = "default"
    conflict_policy: Literal["replace", "keep", "quarantine"] = "replace"
    internal_url: str | None = None  # DICOMweb root that events name
    external_url: str | None = None  # DICOMweb root that clients see
    bucket: Mapping[str, SecretStr] = field(default_factory=dict)
    patient_conflict_policy: Literal["accept", "quarantine"] = "accept"
    retention: RetentionPlan | None = None


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
class DestinationPlan:
    """An application entity that a DIMSE service may call."""

    ae_title: str
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class QidoSourcePlan:
    """A sender that can be asked over DICOMweb. `url` is its root."""

    url: str
    token: SecretStr | None = None


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """A caller that can be asked how many instances a study has: one of the two ways."""

    ae_title: str
    entity: DestinationPlan | None
    qido: QidoSourcePlan | None


@dataclass(frozen=True, slots=True)
class IdentityPlan:
    """What user identities a DIMSE service verifies. `passcodes` are by name, plain or hashed."""

    usernames: tuple[str, ...] = ()
    passcodes: Mapping[str, SecretStr] = field(default_factory=dict)
    token_key: SecretStr | None = None
    token_algorithms: tuple[str, ...] = ()  # empty: the default ones
    token_issuer: str | None = None
    token_audience: str | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class DimsePlan:
    """An application entity that stores into a space and answers from it.

    `port` 0 takes a free one; None: it does not listen on TCP. `tls` are the DIMSE_TLS_* keys.
    `calling_ae_titles`: who may call; None: anybody. `nats`: how it is reached over NATS, by the
    DIMSE_* keys; None: it is not. `place` is where it is declared.
    """

    name: str
    space: str
    provider: str = "default"
    ae_title: str = DEFAULT_AE_TITLE
    port: int | None = DIMSE_PORT
    tls: Mapping[str, SecretStr] = field(default_factory=dict)
    config_path: Path | None = None
    destinations: Sequence[DestinationPlan] = ()
    calling_ae_titles: frozenset[str] | None = None
    identities: IdentityPlan | None = None
    nats: Mapping[str, SecretStr] | None = None
    sources: Sequence[SourcePlan] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ProxyPlan:
    """An application entity projected over NATS. `values` are DIMSE_* keys."""

    name: str
    port: int
    values: Mapping[str, SecretStr]
    place: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class BrokerPlan:
    """What carries the events of a core.

    `servers` are URLs of NATS (none: the site's own server), `ca` certificates that are trusted.
    `sink` None: where the environment says.
    """

    kind: Literal["embedded", "jetstream", "knative"] = "embedded"
    servers: tuple[str, ...] = ()
    secure: bool = False
    ca: Path | None = None
    token: SecretStr | None = None
    user: str | None = None
    password: SecretStr | None = None
    subject_root: str | None = None
    replicas: int = 1
    max_age: timedelta | None = None
    sink: str | None = None
    place: str = field(default="", compare=False)

    @property
    def needs_own_nats(self) -> bool:
        """Whether it takes the site's own NATS server."""
        return self.kind == "jetstream" and not self.servers


@dataclass(frozen=True, slots=True)
class CorePlan:
    """A core with what belongs to it.

    `settle_after_release`: after the release of the association that brought a study; None: a
    release means nothing. `stow_sources`: senders of STOW-RS that can be asked, by space.
    """

    name: str
    database: DatabasePlan
    revisioning_delay: timedelta
    spaces: Sequence[SpacePlan]
    bindings: Sequence[BindingPlan]
    dimse: Sequence[DimsePlan] = ()
    settle_after_release: timedelta | None = None
    stow_sources: Mapping[str, QidoSourcePlan] = field(default_factory=dict)
    broker: BrokerPlan = BrokerPlan()


@dataclass(frozen=True, slots=True)
class SitePlan:
    """Everything that one machine is to run; the first space is the default one."""

    cores: Sequence[CorePlan]
    proxies: Sequence[ProxyPlan] = ()

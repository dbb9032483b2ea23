"""Parts of specs that stand for themselves: brokers, conflicts, retention, peers."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from imaging_ingestion.resources.fields import (
    HOST,
    AeTitle,
    Model,
    Reference,
    Seconds,
)


class Broker(Model):
    """What carries the events of a core."""

    kind: Annotated[
        Literal["embedded", "jetstream", "knative"],
        Field(description="In the core's database, over NATS JetStream, or by Knative Eventing."),
    ] = "embedded"
    natsUrl: Annotated[
        str | None,
        Field(
            description="jetstream: HOST:PORT of the NATS server, or several of a cluster; without "
            "it a server of the site's own."
        ),
    ] = None
    natsSecure: Annotated[bool, Field(description="Whether it is spoken to over TLS.")] = False
    natsCa: Annotated[
        str | None, Field(description="File with the certificates that are trusted then.")
    ] = None
    natsTokenSecret: Annotated[
        Reference, Field(description="Secret with the token, or with NATS_USER and NATS_PASSWORD.")
    ] = None
    natsSubjectRoot: Annotated[
        str | None, Field(description="First word of the subjects; `imaging`.")
    ] = None
    replicas: Annotated[
        int | None, Field(ge=1, le=5, description="jetstream: servers that keep each stream; 1.")
    ] = None
    maxAge: Annotated[
        Seconds | None,
        Field(description="jetstream: seconds that events stay in the stream; 7 days."),
    ] = None
    sink: Annotated[
        str | None, Field(description="knative: URL that events are sent to; else K_SINK.")
    ] = None


class QidoSource(Model):
    """A sender that can be asked over DICOMweb how many instances a study has."""

    url: Annotated[str, Field(description="Its DICOMweb root.")]
    secretName: Annotated[Reference, Field(description="Secret with QIDO_AUTH_TOKEN.")] = None


QUANTITY = r"^[0-9]{1,15}(k|[MGT]|[KMGT]i)?$"


_MOST_DAYS = 100_000


def _days(value: object) -> object:
    """Whole or broken days."""
    if isinstance(value, timedelta):
        return value
    # NaN is in no range.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST_DAYS:
        return timedelta(days=value)
    raise PydanticCustomError("days", f"a number of days, at most {_MOST_DAYS}, was expected")


class Retention(Model):
    """What a storage space keeps; what goes is whole studies, those first that changed first."""

    maxAgeDays: Annotated[
        Annotated[timedelta, BeforeValidator(_days)] | None,
        Field(description="Days after its last change that a study is kept."),
    ] = None
    maxSize: Annotated[
        str | None,
        Field(pattern=QUANTITY, description="Bytes that the objects may have together: `500Gi`."),
    ] = None


ConflictPolicyField = Annotated[
    Literal["replace", "keep", "quarantine"] | None,
    Field(
        description="Ours: what other bytes for a known SOP Instance UID do; `replace` if no "
        "service of the space says it."
    ),
]
PatientConflictPolicyField = Annotated[
    Literal["accept", "quarantine"] | None,
    Field(
        description="Ours: what becomes of an instance whose patient contradicts that of its "
        "study; `accept` if no service of the space says it."
    ),
]
RetentionField = Annotated[
    Retention | None,
    Field(description="Ours: what the space keeps; all of it if no service of the space says it."),
]


class Destination(Model):
    """An application entity that a service may call."""

    applicationEntityTitle: Annotated[AeTitle, Field(description="Its AE title.")]
    host: Annotated[str, Field(pattern=HOST, description="Where it is: a name or an address.")]
    port: Annotated[int, Field(ge=1, le=65535, description="Its port.")] = 104
    tls: Annotated[
        bool, Field(description="Whether it is called over TLS, with the service's DIMSE_TLS_*.")
    ] = False


class Source(Model):
    """A caller that can be asked how many instances a study has: by C-FIND, or over DICOMweb."""

    applicationEntityTitle: Annotated[AeTitle, Field(description="The AE title that it calls as.")]
    host: Annotated[
        str | None, Field(pattern=HOST, description="Where it answers C-FIND, under that title.")
    ] = None
    port: Annotated[int, Field(ge=1, le=65535, description="Its port.")] = 104
    tls: Annotated[bool, Field(description="Whether it is called over TLS.")] = False
    qido: Annotated[QidoSource | None, Field(description="Or where it answers QIDO-RS.")] = None

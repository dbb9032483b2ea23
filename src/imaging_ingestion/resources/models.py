"""The custom resources of API group imaging-ingestion.alvearie.org/v1alpha1, as typed models.

Fields are upstream's, all of them; ours are added as optional and marked so. An unknown field is an
error: a misspelt one would otherwise be a setting that silently does nothing. What Kubernetes
itself adds to an object (metadata, status) is accepted as it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

API_VERSION = "imaging-ingestion.alvearie.org/v1alpha1"

_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
_HOST = r"^([A-Za-z0-9._-]{1,253}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,40}:[0-9A-Za-z.%]{0,32})$"
_AE_TITLE = r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$"

#: What was expected, by pydantic's type of error or the pattern that did not match.
EXPECTED = {
    _NAME: "a name of lower-case letters, digits, '-' and '.' was expected",
    _AE_TITLE: "an AE title was expected: 1 to 16 ASCII characters, no backslash",
    _HOST: "a host name or an address was expected",
    "string_type": (
        "text was expected, as Kubernetes demands: "
        "numbers, and words like yes and no, need quotation marks"
    ),
    "int_type": "a whole number was expected",
    "bool_type": "true or false was expected",
    "dict_type": "a mapping was expected",
    "model_type": "a mapping was expected",
    "list_type": "a list was expected",
    "too_short": "at least one was expected",
    "invalid_key": "a key must be text: numbers, and words like yes and no, need quotation marks",
}

#: The longest that a study may have to stay quiet.
LONGEST_DELAY = timedelta(days=366)
_MOST_DAYS = 100_000

Name = Annotated[str, Field(pattern=_NAME, description="An object's name.")]
AeTitle = Annotated[str, Field(pattern=_AE_TITLE)]


def _unset(value: object) -> object:
    """Go's encoders write a reference that was not given as an empty text."""
    return None if value == "" else value


Reference = Annotated[Name | None, BeforeValidator(_unset)]


def _seconds(value: object) -> object:
    """Whole or broken seconds."""
    if isinstance(value, timedelta):
        return value
    most = LONGEST_DELAY.total_seconds()
    # NaN is in no range.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
        return timedelta(seconds=value)
    raise PydanticCustomError("seconds", f"a number of seconds from 0 to {most:.0f} was expected")


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]


class Model(BaseModel):
    """Fields are spelt as in YAML (camelCase), and no others are allowed.

    Types are taken at their word, as Kubernetes does: the text "3" is no number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Metadata(BaseModel):
    """An object's metadata; only the names matter here."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: Name
    namespace: str | None = None


Image = Annotated[str | None, Field(description="Container image; ours if left out.")]
Replicas = Annotated[int | None, Field(ge=0, description="Of the pods; for Kubernetes only.")]
CoreName = Annotated[Name, Field(description="The core that it belongs to.")]
Provider = Annotated[str, Field(description="Who sends here: events carry it, SELECTOR reads it.")]


class Component(Model):
    """How Kubernetes is to run one part; on one machine only `concurrency` counts."""

    image: Image = None
    concurrency: Annotated[int, Field(ge=0, description="Requests at once; 0 leaves it to us.")] = 0
    minReplicas: Replicas = None
    maxReplicas: Replicas = None


class ImageOnly(Model):
    """A part that Kubernetes runs in one replica."""

    image: Image = None


class LocalObjectReference(Model):
    """A Secret that an image is pulled with."""

    name: str | None = None


class _Spec(Model):
    imagePullPolicy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None, Field(description="For Kubernetes only.")
    ] = None
    imagePullSecrets: Annotated[
        list[LocalObjectReference] | None, Field(description="For Kubernetes only.")
    ] = None


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


class DicomEventDrivenIngestionSpec(_Spec):
    """A core: one manifest, one log, the events of its spaces."""

    databaseConfigName: Annotated[
        Reference,
        Field(description="ConfigMap with DB_*; without one, SQLite in the data folder."),
    ] = None
    databaseSecretName: Annotated[
        Reference, Field(description="Secret with DB_USER and DB_PASS.")
    ] = None
    eventProcessor: Component = Component()
    revisioningDelay: Annotated[
        Seconds, Field(description="Seconds of quiet after which a study is settled.")
    ] = timedelta(seconds=30)
    broker: Annotated[Broker, Field(description="Ours: what carries its events.")] = Broker()
    settleAfterRelease: Annotated[
        Seconds | None,
        Field(
            description="Ours: seconds after the release of the association that brought a study, "
            "after which it is settled if nothing more came; never later than the "
            "revisioningDelay says. Left out, a release means nothing."
        ),
    ] = None


BucketConfig = Annotated[
    Reference,
    Field(description="ConfigMap of the storage space, which has its name; without it `default`."),
]
BucketSecret = Annotated[Reference, Field(description="Secret of the storage space.")]


class QidoSource(Model):
    """A sender that can be asked over DICOMweb how many instances a study has."""

    url: Annotated[str, Field(description="Its DICOMweb root.")]
    secretName: Annotated[Reference, Field(description="Secret with QIDO_AUTH_TOKEN.")] = None


_QUANTITY = r"^[0-9]{1,15}(k|[MGT]|[KMGT]i)?$"


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
        Field(pattern=_QUANTITY, description="Bytes that the objects may have together: `500Gi`."),
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


class DicomwebIngestionServiceSpec(_Spec):
    """DICOMweb of one storage space."""

    bucketConfigName: BucketConfig = None
    bucketSecretName: BucketSecret = None
    dicomEventDrivenIngestionName: CoreName
    providerName: Provider = "default"
    stowService: Component = Component()
    wadoService: Component = Component()
    conflictPolicy: ConflictPolicyField = None
    patientConflictPolicy: PatientConflictPolicyField = None
    retention: RetentionField = None
    source: Annotated[
        QidoSource | None,
        Field(
            description="Ours: the sender, asked how many instances a study has: one that is "
            "complete is settled at once."
        ),
    ] = None


class _Nats(_Spec):
    natsUrl: Annotated[str | None, Field(description="HOST:PORT of the NATS server.")] = None
    natsSecure: Annotated[bool, Field(description="Whether it is spoken to over TLS.")] = False
    natsSubjectRoot: Annotated[str | None, Field(description="First word of the subjects.")] = None
    natsTokenSecret: Annotated[Reference, Field(description="Secret with the token.")] = None


class Destination(Model):
    """An application entity that a service may call."""

    applicationEntityTitle: Annotated[AeTitle, Field(description="Its AE title.")]
    host: Annotated[str, Field(pattern=_HOST, description="Where it is: a name or an address.")]
    port: Annotated[int, Field(ge=1, le=65535, description="Its port.")] = 104
    tls: Annotated[
        bool, Field(description="Whether it is called over TLS, with the service's DIMSE_TLS_*.")
    ] = False


class Source(Model):
    """A caller that can be asked how many instances a study has: by C-FIND, or over DICOMweb."""

    applicationEntityTitle: Annotated[AeTitle, Field(description="The AE title that it calls as.")]
    host: Annotated[
        str | None, Field(pattern=_HOST, description="Where it answers C-FIND, under that title.")
    ] = None
    port: Annotated[int, Field(ge=1, le=65535, description="Its port.")] = 104
    tls: Annotated[bool, Field(description="Whether it is called over TLS.")] = False
    qido: Annotated[QidoSource | None, Field(description="Or where it answers QIDO-RS.")] = None


class DimseIngestionServiceSpec(_Nats):
    """DIMSE services of one storage space."""

    bucketConfigName: BucketConfig = None
    bucketSecretName: BucketSecret = None
    dicomEventDrivenIngestionName: CoreName
    providerName: Provider = "default"
    applicationEntityTitle: Annotated[
        AeTitle, Field(description="AE title that it answers to.")
    ] = "INGESTION"
    dimseService: ImageOnly = ImageOnly()
    port: Annotated[
        int | None,
        Field(
            ge=0,
            le=65535,
            description="Ours: TCP port it listens on, 11112 if left out; 0 takes a free one.",
        ),
    ] = None
    callingApplicationEntityTitles: Annotated[
        list[AeTitle] | None,
        Field(min_length=1, description="Ours: AE titles that may call; any if left out."),
    ] = None
    destinations: Annotated[
        list[Destination],
        Field(description="Ours: whom C-MOVE and reports of storage commitment may go to."),
    ] = []
    conflictPolicy: ConflictPolicyField = None
    patientConflictPolicy: PatientConflictPolicyField = None
    retention: RetentionField = None
    sources: Annotated[
        list[Source],
        Field(
            description="Ours: callers that are asked how many instances a study has: one that is "
            "complete is settled at once."
        ),
    ] = []
    dimseConfigName: Annotated[
        Reference, Field(description="Ours: ConfigMap with DIMSE_* of the service.")
    ] = None
    dimseSecretName: Annotated[
        Reference, Field(description="Ours: Secret with those that nobody is to see.")
    ] = None


class DimseProxySpec(_Nats):
    """An application entity projected over NATS."""

    applicationEntityTitle: Annotated[
        AeTitle | None, Field(description="AE title of the entity.")
    ] = None
    targetDimseHost: Annotated[str | None, Field(description="Host of the entity.")] = None
    targetDimsePort: Annotated[
        int | None, Field(ge=1, le=65535, description="Port of the entity.")
    ] = None
    natsSubjectChannel: Annotated[
        Literal["A", "B"] | None, Field(description="The other one than the peer's.")
    ] = None
    proxy: ImageOnly = ImageOnly()
    port: Annotated[
        int | None,
        Field(
            ge=0,
            le=65535,
            description="Ours: TCP port for local peers, 11112 if left out; 0 takes a free one.",
        ),
    ] = None
    mode: Annotated[
        Literal["relay", "spool"],
        Field(description="Ours: spool takes instances itself and sends them on (docs/spool.md)."),
    ] = "relay"
    spoolDirectory: Annotated[str | None, Field(description="Ours: where they wait.")] = None
    spoolQuota: Annotated[
        str | None, Field(pattern=_QUANTITY, description="Ours: bytes they may take, as 50Gi.")
    ] = None
    spoolMinFree: Annotated[
        str | None,
        Field(pattern=_QUANTITY, description="Ours: bytes of the disk that stay free; 1Gi."),
    ] = None
    dimseConfigName: Annotated[
        Reference, Field(description="Ours: ConfigMap with DIMSE_* of the proxy.")
    ] = None
    dimseSecretName: Annotated[
        Reference, Field(description="Ours: Secret with those that nobody is to see.")
    ] = None


BindingConfig = Annotated[Reference, Field(description="ConfigMap of the target.")]
BindingSecret = Annotated[Reference, Field(description="Secret of the target.")]


class DicomInstanceBindingSpec(_Spec):
    """A target that gets every instance."""

    bindingConfigName: BindingConfig = None
    bindingSecretName: BindingSecret = None
    dicomEventDrivenIngestionName: CoreName
    instanceBinding: Component = Component()


class DicomStudyBindingSpec(_Spec):
    """A target that gets every revision of a study."""

    bindingConfigName: BindingConfig = None
    bindingSecretName: BindingSecret = None
    dicomEventDrivenIngestionName: CoreName
    studyBinding: Component = Component()


class DicomEventBridgeSpec(_Nats):
    """Events carried between sites."""

    role: Annotated[
        Literal["hub", "edge"], Field(description="The hub is where all edges meet.")
    ] = "hub"
    edgeMailbox: Annotated[
        str | None, Field(description="Name of an edge's mailbox at the hub.")
    ] = None
    dicomEventDrivenIngestionName: CoreName
    eventBridge: ImageOnly = ImageOnly()


class Resource(Model):
    """What all kinds have."""

    apiVersion: str
    kind: str
    metadata: Metadata
    status: dict[str, Any] | None = None

    #: Whether what stands in `data` must never be shown.
    values_are_secret: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name


class CustomResource(Resource):
    """One of our seven kinds."""

    apiVersion: Literal["imaging-ingestion.alvearie.org/v1alpha1"]


class DicomEventDrivenIngestion(CustomResource):
    """See its spec."""

    kind: Literal["DicomEventDrivenIngestion"]
    spec: DicomEventDrivenIngestionSpec = DicomEventDrivenIngestionSpec()


class DicomwebIngestionService(CustomResource):
    """See its spec."""

    kind: Literal["DicomwebIngestionService"]
    spec: DicomwebIngestionServiceSpec


class DimseIngestionService(CustomResource):
    """See its spec."""

    kind: Literal["DimseIngestionService"]
    spec: DimseIngestionServiceSpec


class DimseProxy(CustomResource):
    """See its spec."""

    kind: Literal["DimseProxy"]
    spec: DimseProxySpec


class DicomInstanceBinding(CustomResource):
    """See its spec."""

    kind: Literal["DicomInstanceBinding"]
    spec: DicomInstanceBindingSpec


class DicomStudyBinding(CustomResource):
    """See its spec."""

    kind: Literal["DicomStudyBinding"]
    spec: DicomStudyBindingSpec


class DicomEventBridge(CustomResource):
    """See its spec."""

    kind: Literal["DicomEventBridge"]
    spec: DicomEventBridgeSpec


class ConfigMap(Resource):
    """Settings by name."""

    apiVersion: Literal["v1"]
    kind: Literal["ConfigMap"]
    data: dict[str, str] = Field(default_factory=dict)
    binaryData: dict[str, str] = Field(default_factory=dict)
    immutable: bool = False


class Secret(Resource):
    """Settings nobody is to see: `data` is base64, `stringData` plain."""

    model_config = ConfigDict(hide_input_in_errors=True)
    values_are_secret: ClassVar[bool] = True

    apiVersion: Literal["v1"]
    kind: Literal["Secret"]
    type: str = "Opaque"
    data: Annotated[dict[str, str], Field(repr=False)] = Field(default_factory=dict)
    stringData: Annotated[dict[str, str], Field(repr=False)] = Field(default_factory=dict)
    immutable: bool = False


CUSTOM_KINDS: dict[str, type[CustomResource]] = {
    "DicomEventDrivenIngestion": DicomEventDrivenIngestion,
    "DicomwebIngestionService": DicomwebIngestionService,
    "DimseIngestionService": DimseIngestionService,
    "DimseProxy": DimseProxy,
    "DicomInstanceBinding": DicomInstanceBinding,
    "DicomStudyBinding": DicomStudyBinding,
    "DicomEventBridge": DicomEventBridge,
}
KINDS: dict[str, type[Resource]] = {**CUSTOM_KINDS, "ConfigMap": ConfigMap, "Secret": Secret}

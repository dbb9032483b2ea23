"""The custom resources of API group imaging-ingestion.alvearie.org/v1alpha1, as typed models.

Fields are upstream's, all of them; ours are added as optional and marked so. An unknown field is an
error: a misspelt one would otherwise be a setting that silently does nothing. What Kubernetes
itself adds to an object (metadata, status) is accepted as it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from imaging_ingestion.resources.fields import (
    AeTitle,
    Component,
    CoreName,
    ImageOnly,
    Metadata,
    Model,
    Provider,
    Reference,
    Seconds,
    Spec,
)
from imaging_ingestion.resources.parts import (
    QUANTITY,
    Broker,
    ConflictPolicyField,
    Destination,
    PatientConflictPolicyField,
    QidoSource,
    RetentionField,
    Source,
)


class DicomEventDrivenIngestionSpec(Spec):
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


class DicomwebIngestionServiceSpec(Spec):
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


class NatsSpec(Spec):
    natsUrl: Annotated[str | None, Field(description="HOST:PORT of the NATS server.")] = None
    natsSecure: Annotated[bool, Field(description="Whether it is spoken to over TLS.")] = False
    natsSubjectRoot: Annotated[str | None, Field(description="First word of the subjects.")] = None
    natsTokenSecret: Annotated[Reference, Field(description="Secret with the token.")] = None


class DimseIngestionServiceSpec(NatsSpec):
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


class DimseProxySpec(NatsSpec):
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
        str | None, Field(pattern=QUANTITY, description="Ours: bytes they may take, as 50Gi.")
    ] = None
    spoolMinFree: Annotated[
        str | None,
        Field(pattern=QUANTITY, description="Ours: bytes of the disk that stay free; 1Gi."),
    ] = None
    dimseConfigName: Annotated[
        Reference, Field(description="Ours: ConfigMap with DIMSE_* of the proxy.")
    ] = None
    dimseSecretName: Annotated[
        Reference, Field(description="Ours: Secret with those that nobody is to see.")
    ] = None


BindingConfig = Annotated[Reference, Field(description="ConfigMap of the target.")]
BindingSecret = Annotated[Reference, Field(description="Secret of the target.")]


class DicomInstanceBindingSpec(Spec):
    """A target that gets every instance."""

    bindingConfigName: BindingConfig = None
    bindingSecretName: BindingSecret = None
    dicomEventDrivenIngestionName: CoreName
    instanceBinding: Component = Component()


class DicomStudyBindingSpec(Spec):
    """A target that gets every revision of a study."""

    bindingConfigName: BindingConfig = None
    bindingSecretName: BindingSecret = None
    dicomEventDrivenIngestionName: CoreName
    studyBinding: Component = Component()


class DicomEventBridgeSpec(NatsSpec):
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

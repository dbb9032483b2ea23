"""The custom resources of API group imaging-ingestion.alvearie.org/v1alpha1, as typed models.

Fields are upstream's, all of them; ours are added as optional and marked so. An unknown field is an
error: a misspelt one would otherwise be a setting that silently does nothing. What Kubernetes
itself adds to an object (metadata, status) is accepted as it is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

API_VERSION = "imaging-ingestion.alvearie.org/v1alpha1"

Name = Annotated[
    str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", description="An object's name.")
]
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]


def _seconds(value: object) -> object:
    """Whole or broken seconds; anything else is left for the type to refuse."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]


class Model(BaseModel):
    """Fields are spelt as in YAML (camelCase), and no others are allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Metadata(BaseModel):
    """An object's metadata; only the names matter here."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    namespace: str | None = None


class Component(Model):
    """How Kubernetes is to run one part; on one machine only `concurrency` counts."""

    image: str | None = None
    concurrency: Annotated[int, Field(ge=0, description="Requests at once; 0 is the default.")] = 0
    minReplicas: Annotated[int, Field(ge=0)] | None = None
    maxReplicas: Annotated[int, Field(ge=0)] | None = None


class ImageOnly(Model):
    """A part that Kubernetes runs in one replica."""

    image: str | None = None


class _Spec(Model):
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    imagePullSecrets: list[dict[str, str] | str] | None = None


class DicomEventDrivenIngestionSpec(_Spec):
    """A core: one manifest, one log, the events of its spaces."""

    databaseConfigName: Annotated[
        Name | None,
        Field(description="ConfigMap with DB_*; without one, SQLite in the data folder."),
    ] = None
    databaseSecretName: Annotated[
        Name | None, Field(description="Secret with DB_USER and DB_PASS.")
    ] = None
    eventProcessor: Component = Component()
    revisioningDelay: Annotated[
        Seconds, Field(description="Seconds of quiet after which a study is settled.")
    ] = timedelta(seconds=30)


class DicomwebIngestionServiceSpec(_Spec):
    """DICOMweb of one storage space."""

    bucketConfigName: Annotated[
        Name | None,
        Field(
            description="ConfigMap of the storage space, which has its name; without it `default`."
        ),
    ] = None
    bucketSecretName: Name | None = None
    dicomEventDrivenIngestionName: Name
    providerName: str = "default"
    stowService: Component = Component()
    wadoService: Component = Component()
    conflictPolicy: Annotated[
        Literal["replace", "keep"],
        Field(description="Ours: what other bytes for a known SOP Instance UID do."),
    ] = "replace"


class _Nats(_Spec):
    natsUrl: str | None = None
    natsSecure: bool = False
    natsSubjectRoot: str | None = None
    natsTokenSecret: str | None = None


class DimseIngestionServiceSpec(_Nats):
    """DIMSE services of one storage space."""

    bucketConfigName: Name | None = None
    bucketSecretName: Name | None = None
    dicomEventDrivenIngestionName: Name
    providerName: str = "default"
    applicationEntityTitle: AeTitle = "INGESTION"
    dimseService: ImageOnly = ImageOnly()


class DimseProxySpec(_Nats):
    """An application entity projected over NATS."""

    applicationEntityTitle: AeTitle | None = None
    targetDimseHost: str | None = None
    targetDimsePort: Annotated[int, Field(ge=1, le=65535)] | None = None
    natsSubjectChannel: Literal["A", "B"] | None = None
    proxy: ImageOnly = ImageOnly()


class DicomInstanceBindingSpec(_Spec):
    """A target that gets every instance."""

    bindingConfigName: Name | None = None
    bindingSecretName: Name | None = None
    dicomEventDrivenIngestionName: Name
    instanceBinding: Component = Component()


class DicomStudyBindingSpec(_Spec):
    """A target that gets every revision of a study."""

    bindingConfigName: Name | None = None
    bindingSecretName: Name | None = None
    dicomEventDrivenIngestionName: Name
    studyBinding: Component = Component()


class DicomEventBridgeSpec(_Nats):
    """Events carried between sites."""

    role: Literal["hub", "edge"] = "hub"
    edgeMailbox: str | None = None
    dicomEventDrivenIngestionName: Name
    eventBridge: ImageOnly = ImageOnly()


class Resource(Model):
    """What all kinds have."""

    apiVersion: str
    kind: str
    metadata: Metadata
    status: dict[str, Any] | None = None

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

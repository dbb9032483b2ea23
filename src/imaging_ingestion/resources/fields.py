"""What the fields of resources are made of: names, references, times, and what was expected."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

API_VERSION = "imaging-ingestion.alvearie.org/v1alpha1"

NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
HOST = r"^([A-Za-z0-9._-]{1,253}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,40}:[0-9A-Za-z.%]{0,32})$"
AE_TITLE = r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$"

#: What was expected, by pydantic's type of error or the pattern that did not match.
EXPECTED = {
    NAME: "a name of lower-case letters, digits, '-' and '.' was expected",
    AE_TITLE: "an AE title was expected: 1 to 16 ASCII characters, no backslash",
    HOST: "a host name or an address was expected",
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

Name = Annotated[str, Field(pattern=NAME, description="An object's name.")]
AeTitle = Annotated[str, Field(pattern=AE_TITLE)]


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


class Spec(Model):
    imagePullPolicy: Annotated[
        Literal["Always", "IfNotPresent", "Never"] | None, Field(description="For Kubernetes only.")
    ] = None
    imagePullSecrets: Annotated[
        list[LocalObjectReference] | None, Field(description="For Kubernetes only.")
    ] = None

"""Prints docs/configuration.md: every field and key, from the models themselves.

python scripts/make_configuration_reference.py > docs/configuration.md
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from imaging_ingestion.resources.fields import API_VERSION
from imaging_ingestion.resources.models import CUSTOM_KINDS
from imaging_ingestion.resources.settings import SETTINGS

_HEAD = f"""# Configuration reference

<!-- Made by scripts/make_configuration_reference.py; a test compares. Change the models. -->

A deployment is declared by custom resources of `{API_VERSION}`, with ConfigMaps and Secrets
beside them, in one or more YAML files: `imaging-ingestion up -f site.yaml`. Unknown fields are an
error. How the resources belong together is told in [site.md](site.md).

Fields that only Kubernetes has a use for (images, replicas, pull secrets) are accepted everywhere
and ignored by `up`.
"""


def reference() -> str:
    """The page."""
    lines = [_HEAD]
    for kind, model in CUSTOM_KINDS.items():
        spec = model.model_fields["spec"].annotation
        assert isinstance(spec, type)
        lines.append(f"## {kind}\n")
        lines.append(f"{(spec.__doc__ or '').strip()}\n")
        lines.append("| field of spec | type | default | meaning |\n|---|---|---|---|")
        lines += _rows(spec, "")
        lines.append("")
    lines.append("## Keys of ConfigMaps and Secrets\n")
    lines.append("The same keys are the environment names of a single component.\n")
    lines.append("| key | named by | default | meaning |\n|---|---|---|---|")
    for setting in SETTINGS:
        meaning = setting.meaning + (" Belongs in a Secret." if setting.is_secret else "")
        lines.append(f"| `{setting.name}` | {setting.reader} | {setting.default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _rows(annotation, f"{prefix}{name}.")
            continue
        yield (
            f"| `{prefix}{name}` | {_type(annotation)} | {_default(field)} "
            f"| {field.description or ''} |"
        )
        (item,) = typing.get_args(annotation) if typing.get_origin(annotation) is list else (None,)
        if isinstance(item, type) and issubclass(item, BaseModel):
            yield from _rows(item, f"{prefix}{name}[].")


def _type(annotation: Any) -> str:
    if annotation is timedelta:
        return "seconds"
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    if origin in {typing.Union, types.UnionType}:
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return " or ".join(map(_type, parts))
    if origin is list:
        return "list"
    if origin is dict:
        return "mapping"
    names = {str: "text", int: "number", bool: "true or false", float: "number"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value is PydanticUndefined or value == []:
        return ""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(reference(), end="")

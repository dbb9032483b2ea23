"""Resources of a site as YAML, and the plan or the problems that they make."""

from __future__ import annotations

import pytest

from imaging_ingestion.resources.plan import CorePlan, SitePlan
from imaging_ingestion.resources.planner import runnable
from imaging_ingestion.resources.site_file import Site, SiteError, read_documents

API = "imaging-ingestion.alvearie.org/v1alpha1"


def resource(kind: str, name: str, **spec: object) -> str:
    own = "\n".join(f"  {field}: {value}" for field, value in spec.items())
    return f"apiVersion: {API}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{own}\n"


def core(name: str = "core", **spec: object) -> str:
    return resource("DicomEventDrivenIngestion", name, **spec)


def service(name: str, of: str = "core", **spec: object) -> str:
    return resource("DicomwebIngestionService", name, dicomEventDrivenIngestionName=of, **spec)


def dimse(name: str, of: str = "core", **spec: object) -> str:
    return resource("DimseIngestionService", name, dicomEventDrivenIngestionName=of, **spec)


def binding(kind: str, name: str, of: str = "core", **spec: object) -> str:
    return resource(kind, name, dicomEventDrivenIngestionName=of, **spec)


def config_map(name: str, **data: str) -> str:
    pairs = "\n".join(f"  {key}: {value!r}" for key, value in data.items())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n{pairs}\n"


def secret(name: str, field: str = "stringData", **data: str) -> str:
    pairs = "\n".join(f"  {key}: {value!r}" for key, value in data.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n{field}:\n{pairs}\n"


def plan(*documents: str) -> SitePlan:
    problems: list[str] = []
    site = Site(tuple(read_documents("---\n".join(documents), "site.yaml", problems)))
    assert problems == []
    return runnable(site)


def problems_of(*documents: str) -> tuple[str, ...]:
    with pytest.raises(SiteError) as caught:
        plan(*documents)
    return caught.value.problems


def core_of(*documents: str) -> CorePlan:
    (found,) = plan(*documents).cores
    return found

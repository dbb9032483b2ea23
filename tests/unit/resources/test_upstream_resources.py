"""Resources that users of the archived project have deployed must be readable as they are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from imaging_ingestion.resources.models import (
    CUSTOM_KINDS,
    DicomEventBridge,
    DicomEventDrivenIngestion,
    DicomwebIngestionService,
    DimseProxy,
)
from imaging_ingestion.resources.site_file import Site, read_site

TESTS = Path(__file__).resolve().parents[2]
COPIES = TESTS / "data" / "upstream"
ORIGINALS = TESTS.parent.parent / "shared" / "upstream" / "resources"


def upstream() -> Site:
    return read_site(sorted(COPIES.glob("*.yaml")))


@pytest.mark.parametrize("kind", CUSTOM_KINDS.values(), ids=CUSTOM_KINDS)
def test_upstreams_resource_of_each_kind_is_read(kind):
    ((resource, place),) = upstream().of(kind)
    assert type(resource) is kind
    assert place == (
        f"{COPIES / kind.__name__.lower()}.yaml, document 1 ({kind.__name__} {resource.name})"
    )


def test_upstreams_fields_arrive_with_their_values():
    site = upstream()
    ((core, _),) = site.of(DicomEventDrivenIngestion)
    assert core.spec.databaseConfigName == "db-config"
    assert core.spec.revisioningDelay == timedelta(seconds=30)
    assert core.spec.eventProcessor.maxReplicas == 3
    ((service, _),) = site.of(DicomwebIngestionService)
    assert (service.spec.providerName, service.spec.stowService.minReplicas) == ("provider", 0)
    ((proxy, _),) = site.of(DimseProxy)
    assert (proxy.spec.targetDimsePort, proxy.spec.natsSecure) == (11112, True)
    ((bridge, _),) = site.of(DicomEventBridge)
    assert bridge.spec.role == "hub"


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the originals are not beside this repository")
def test_the_copies_are_upstreams_files():
    originals = {path.name: path.read_bytes() for path in ORIGINALS.glob("*.yaml")}
    assert originals == {path.name: path.read_bytes() for path in COPIES.glob("*.yaml")}

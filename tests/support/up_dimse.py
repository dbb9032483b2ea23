"""`up` with DIMSE services, as a process: sites for it, and what DICOMweb tells of it."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from dimse_site import Sent, data_set_of
from instances import with_uids
from platform_process import Platform
from site_documents import core, dimse

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.dimse.requestor import Proposal

DEADLINE = 60.0  # seconds that a test waits for what is to happen in another process
AE_TITLE = "INGESTION"
CT_IMAGE_STORAGE, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


def site(port: int, *documents: str, **spec: object) -> str:
    """A site with one DIMSE service named `scanners` and the space `default`."""
    return "---\n".join(
        (core(revisioningDelay=1), dimse("scanners", port=port, **spec), *documents)
    )


@asynccontextmanager
async def running(platform: Platform) -> AsyncIterator[Platform]:
    """The platform from its start to a good end."""
    await asyncio.to_thread(platform.start)
    try:
        yield platform
        assert await asyncio.to_thread(platform.stop) == 0, platform.log.read_text()
        assert "Traceback" not in platform.log.read_text()
    finally:
        platform.kill()


async def call(
    port: int,
    *proposals: Proposal,
    calling: str = "TEST",
    called: str = AE_TITLE,
    settings: ConnectSettings | None = None,
) -> Association:
    """An association with the service at a port, by our own requestor."""
    return await connect(
        "127.0.0.1",
        port,
        proposals,
        called_ae_title=called,
        calling_ae_title=calling,
        settings=settings,
    )


def instance(source: Path, study: str, number: int) -> tuple[bytes, Sent]:
    """A CT image of a study as a file, and as a C-STORE takes it."""
    whole = with_uids(source, study, f"{study}.1", f"{study}.1.{number}")
    return whole, Sent(CT_IMAGE_STORAGE, f"{study}.1.{number}", EXPLICIT, data_set_of(whole))


def get(url: str) -> Any:
    """The JSON that a URL answers with; nothing (204) is an empty list."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else []


def text_of(url: str) -> str:
    """The text that a URL answers with."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def instances_in(dicomweb: str, study: str) -> set[str]:
    """The SOP Instance UIDs of a study that QIDO-RS finds."""
    found = get(f"{dicomweb}/instances?StudyInstanceUID={study}&limit=5000")
    return {one["00080018"]["Value"][0] for one in found}


def stored(dicomweb: str, study: str, sop: str) -> bytes:
    """The data set of an instance as it is stored."""
    request = urllib.request.Request(
        f"{dicomweb}/studies/{study}/series/{study}.1/instances/{sop}",
        headers={"Accept": "application/dicom; transfer-syntax=*"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return data_set_of(answer.read())


async def until(is_so: Callable[[], object], what: str) -> None:
    """Wait for something in another process."""
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline, f"not within {DEADLINE:.0f} s: {what}"
        await asyncio.sleep(0.05)  # it tells nobody

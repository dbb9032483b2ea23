"""Whether a site tells exactly what its senders know: everything, once, byte for byte."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from chaos_senders import Truth, series_of, study_of
from dimse_site import data_set_of

DEADLINE = 120.0  # seconds for what must follow; a delivery in hand waits 10 s for its lease
LOOK = 0.2
READERS = 8


class Site:
    """What a site says over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, port: int) -> None:
        self._http = http
        self._root = f"http://127.0.0.1:{port}"

    async def json(self, path: str) -> Any:
        async with self._http.get(f"{self._root}{path}") as answer:
            if answer.status == 204:
                return []
            assert answer.status == 200, (path, answer.status, (await answer.text())[:500])
            return await answer.json(content_type=None)

    async def instances(self, study: str) -> list[str]:
        """The SOP Instance UIDs that QIDO-RS finds."""
        found = await self.json(f"/dicom-web/studies/{study}/instances?limit=5000")
        return [one["00080018"]["Value"][0] for one in found]

    async def content(self, sop: str) -> bytes:
        """An instance as it is stored."""
        path = f"/dicom-web/studies/{study_of(sop)}/series/{series_of(sop)}/instances/{sop}"
        headers = {"Accept": "application/dicom; transfer-syntax=*"}
        async with self._http.get(self._root + path, headers=headers) as answer:
            assert answer.status == 200, (sop, answer.status)
            return await answer.read()

    async def log(self, study: str) -> list[dict[str, Any]]:
        """Every entry of the log about a study."""
        entries: list[dict[str, Any]] = []
        since = 0
        while True:
            page = await self.json(f"/api/changes?since={since}&study={study}&limit=500")
            entries += page["changes"]
            since = page["last"]
            if not page["more"]:
                return entries

    async def revisions(self, study: str) -> list[dict[str, Any]]:
        """The data of every StudyRevisionEvent of a study."""
        found = await self.json(f"/api/revisions/default/{study}")
        numbers = [one["number"] for one in found["revisions"]]
        assert numbers == list(range(len(numbers)))
        return [await self.json(f"/api/revisions/default/{study}/{number}") for number in numbers]

    async def ledger(self) -> dict[str, dict[str, int]]:
        """How many deliveries each binding has in each state."""
        return {one["name"]: one for one in (await self.json("/api/bindings"))["bindings"]}


async def await_true(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Ask another process until `condition` holds; it may be away meanwhile."""
    deadline = time.monotonic() + DEADLINE
    last: object = None
    while True:
        try:
            if await condition():
                return
            last = None
        except (aiohttp.ClientError, OSError, AssertionError) as error:
            last = error
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE:.0f} s ({last!r})"
        await asyncio.sleep(LOOK)  # polling another process


async def lists_all(site: Site, truth: Truth) -> bool:
    """Whether QIDO-RS finds every instance."""
    found = [set(await site.instances(study)) for study in truth.studies]
    return found == [set(truth.study(study)) for study in truth.studies]


async def assert_has_all(site: Site, truth: Truth) -> dict[str, bytes]:
    """Every acknowledged instance is there, once, and its bytes are those that were sent.

    The objects as they are stored, by SOP Instance UID.
    """
    for study in truth.studies:
        found = Counter(await site.instances(study))
        assert set(found) == set(truth.study(study))
        assert set(found.values()) == {1}
    turns = asyncio.Semaphore(READERS)

    async def content(sop: str) -> bytes:
        async with turns:
            return await site.content(sop)

    contents = await asyncio.gather(*(content(sop) for sop in truth.contents))
    for (sop, sent), content_found in zip(truth.contents.items(), contents, strict=True):
        # C-STORE sends the data set only.
        assert data_set_of(content_found) == data_set_of(sent), sop
    return dict(zip(truth.contents, contents, strict=True))


async def assert_told_all(site: Site, truth: Truth) -> None:
    """The log has each arrival once and in order; the revisions, replayed, are what there is."""
    for study in truth.studies:
        log = await site.log(study)
        numbers = [entry["seq"] for entry in log]
        assert numbers == sorted(set(numbers))
        kinds = {
            kind: Counter(e["sop_instance_uid"] for e in log if e["kind"] == kind)
            for kind in ("stored", "replaced", "deleted", "failed")
        }
        here = truth.study(study)
        assert kinds["stored"] == Counter(list(here))
        assert kinds["replaced"] == Counter(truth.replaced & set(here))
        assert not kinds["deleted"]
        assert not kinds["failed"]
        replayed: set[str] = set()
        modified: set[str] = set()
        for revision in await site.revisions(study):
            changes = {
                what: {name.rsplit("/", 1)[1] for name in revision["changeSet"][what]}
                for what in ("additions", "deletions", "modifications")
            }
            assert any(changes.values())
            assert not changes["deletions"]
            assert not changes["additions"] & replayed
            assert changes["modifications"] <= replayed
            replayed |= changes["additions"]
            modified |= changes["modifications"]
            told = {
                one["sopInstanceUID"]
                for series in revision["study"]["series"]
                for one in series["instances"]
            }
            assert told == replayed
        assert replayed == set(here)
        assert modified <= truth.replaced


async def is_settled(site: Site, truth: Truth) -> bool:
    """Whether the last revision of every study tells of all that there is."""
    for study in truth.studies:
        revisions = await site.revisions(study)
        told = (
            sum(len(s["instances"]) for s in revisions[-1]["study"]["series"]) if revisions else 0
        )
        if told != len(truth.study(study)):
            return False
    return True


async def has_delivered_all(site: Site) -> bool:
    """Whether no binding owes anything."""
    return all(not one["pending"] for one in (await site.ledger()).values())


async def assert_no_dead_letters(site: Site) -> None:
    assert {name: one["dead"] for name, one in (await site.ledger()).items() if one["dead"]} == {}

"""Senders that store until everything is acknowledged, whatever happens, and remember what was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from dimse_site import CT, Sent, data_set_of, store
from instances import multipart, padded, with_uids
from up_dimse import CT_IMAGE_STORAGE, EXPLICIT, call

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError

SENDERS = 8
STUDIES = 4
#: STOW: instances in one request.
TOGETHER = 4
#: Every so-many-th instance is sent once more, with other bytes.
REPLACED = 4
PAUSE = 0.05  # seconds before the next try
#: C-STORE and STOW answers that say "later": out of resources, processing failure.
LATER = frozenset({0xA700, 0x0110})

#: Where to send to: an HTTP and a DIMSE port.
Door = tuple[int, int]


@dataclass
class Truth:
    """What was acknowledged: the last content of each instance, and whether it had another."""

    contents: dict[str, bytes] = field(default_factory=dict)  # Part 10, by SOP Instance UID
    replaced: set[str] = field(default_factory=set)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def acknowledged(self, sop: str, content: bytes) -> None:
        if sop in self.contents and self.contents[sop] != content:
            self.replaced.add(sop)
        self.contents[sop] = content
        self._more.set()

    async def reaches(self, number: int) -> None:
        """Wait until so many instances have been acknowledged."""
        while len(self.contents) < number:
            self._more.clear()
            await self._more.wait()

    def study(self, uid: str) -> dict[str, bytes]:
        """The instances of a study."""
        return {sop: data for sop, data in self.contents.items() if study_of(sop) == uid}

    @property
    def studies(self) -> set[str]:
        return {study_of(sop) for sop in self.contents}


def series_of(sop: str) -> str:
    return sop.rsplit(".", 1)[0]


def study_of(sop: str) -> str:
    return series_of(series_of(sop))


class Sender:
    """One sender, with series of its own in a study that others send to as well.

    It chooses a door anew whenever one was closed. `doors` may change as it goes.
    """

    def __init__(
        self, number: int, root: str, source: Path, doors: Sequence[Door], truth: Truth
    ) -> None:
        self._number = number
        self._series = f"{root}.{number % STUDIES}.{number}"
        self._study = f"{root}.{number % STUDIES}"
        self._source = source
        self._doors = doors
        self._truth = truth
        self._tries = 0
        #: Those that no earlier try can come in behind: the first one was acknowledged.
        self._sure: dict[str, int] = {}

    async def run(self, instances: int) -> None:
        """Store all, and some of them again."""
        await self._send(self._content(number) for number in range(1, instances + 1))
        again = [sop for sop in self._sure if self._sure[sop] % REPLACED == 0]
        await self._send(
            (sop, padded(self._content(self._sure[sop])[1], 1000 + 2 * self._number))
            for sop in again
        )

    async def _send(self, contents: Iterable[tuple[str, bytes]]) -> None:
        raise NotImplementedError

    def _content(self, number: int) -> tuple[str, bytes]:
        sop = f"{self._series}.{number}"
        return sop, with_uids(self._source, self._study, self._series, sop)

    def _door(self) -> Door:
        self._tries += 1
        return self._doors[(self._number // 2 + self._tries) % len(self._doors)]

    def _acknowledged(self, sop: str, content: bytes, *, first: bool) -> None:
        if first and sop not in self._truth.contents:
            self._sure[sop] = int(sop.rsplit(".", 1)[1])
        self._truth.acknowledged(sop, content)


class StowSender(Sender):
    """Some instances a request."""

    async def _send(self, contents: Iterable[tuple[str, bytes]]) -> None:
        waiting = list(contents)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
            while waiting:
                batch, waiting = dict(waiting[:TOGETHER]), waiting[TOGETHER:]
                first = True
                while batch:
                    try:
                        for sop in await self._store(http, batch):
                            self._acknowledged(sop, batch.pop(sop), first=first)
                    except (aiohttp.ClientError, TimeoutError, OSError):
                        pass
                    if batch:
                        first = False
                        await asyncio.sleep(PAUSE)  # nobody tells when it is there again

    async def _store(self, http: aiohttp.ClientSession, batch: dict[str, bytes]) -> list[str]:
        """Those that were acknowledged."""
        body, content_type = multipart(list(batch.values()))
        url = f"http://127.0.0.1:{self._door()[0]}/dicom-web/studies"
        async with http.post(url, data=body, headers={"Content-Type": content_type}) as answer:
            text = await answer.read()
            if answer.status not in {200, 202}:
                assert answer.status == 503, (answer.status, text[:1000])
                if answer.content_type != "application/dicom+json":
                    return []
            found = json.loads(text)
        for failed in found.get("00081198", {}).get("Value", []):
            assert failed["00081197"]["Value"][0] in LATER, failed
        return [one["00081155"]["Value"][0] for one in found.get("00081199", {}).get("Value", [])]


class StoreSender(Sender):
    """One association after the other, one instance at a time."""

    async def _send(self, contents: Iterable[tuple[str, bytes]]) -> None:
        association: Association | None = None
        for sop, content in contents:
            sent = Sent(CT_IMAGE_STORAGE, sop, EXPLICIT, data_set_of(content))
            first = True
            while True:
                try:
                    if association is None:
                        association = await call(self._door()[1], CT)
                    status = (await store(association, sent)).status
                    if status == 0:
                        self._acknowledged(sop, content, first=first)
                        break
                    assert status in LATER, f"{status:04X}"
                except (AssociationError, OSError):
                    association = None
                first = False
                await asyncio.sleep(PAUSE)
        if association is not None:
            try:
                await association.release()
            except AssociationError:
                await association.abort()


async def ingest(
    root: str,
    source: Path,
    doors: Sequence[Door],
    instances: int,
    truth: Truth,
    *,
    of: Callable[[int], type[Sender]] = lambda number: StowSender if number % 2 else StoreSender,
) -> None:
    """Eight senders, half of each kind, store so many instances each; all are acknowledged."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(SENDERS):
            sender = of(number)(number, root, source, doors, truth)
            tasks.create_task(sender.run(instances))

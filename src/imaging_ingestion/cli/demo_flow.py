"""The way of the demonstration's study, step by step: sent, settled, forwarded, told to FHIR."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.json import JSON
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from imaging_ingestion.cli.collect import DicomFile
from imaging_ingestion.cli.cstore_client import CStoreClient
from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer
from imaging_ingestion.cli.lists import studies_table
from imaging_ingestion.cli.send import Client, Summary, find_files, send_files, show
from imaging_ingestion.cli.stow_client import Destination, StowClient, UnreachableError
from imaging_ingestion.cli.terminal import plain
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.site import RunningSite

_SPACES = ("default", "archive")
_STUDY, _SERIES, _SOP = 0x0020000D, 0x0020000E, 0x00080018
_PATIENCE = 60.0  # seconds beyond those that a step needs
_LOOK = 0.2  # seconds between looks
#: What a browser asks for.
_ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class MissingError(Exception):
    """Something did not happen; a sentence that says what."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The study that is sent: its instances by series."""

    folder: Path
    study: str
    series: Mapping[str, frozenset[str]]

    @property
    def instances(self) -> int:
        """How many instances it has."""
        return sum(map(len, self.series.values()))

    @classmethod
    def read(cls, folder: Path) -> Sample:
        """Read it from a folder that holds one study and nothing else."""
        study = ""
        series: dict[str, set[str]] = {}
        for path in sorted(folder.iterdir()):
            header = scan_bytes(path.read_bytes())
            study = header.text(_STUDY) or ""
            series.setdefault(header.text(_SERIES) or "", set()).add(header.text(_SOP) or "")
        return cls(folder, study, {uid: frozenset(sops) for uid, sops in series.items()})


class Flow:
    """Sends the sample, waits for what must follow, and shows it."""

    def __init__(
        self,
        shown: Console,
        http: aiohttp.ClientSession,
        site: RunningSite,
        fhir: str,
        delay: float,
    ) -> None:
        """`fhir` is the receiver's base URL, `delay` in seconds."""
        self._shown = shown
        self._http = http
        self._base = site.base_url
        self._entity = str(site.dimse[0])
        self._fhir = fhir
        self._delay = delay

    async def run(self, sample: Sample) -> list[str]:
        """All of it; what did not happen, in sentences."""
        try:
            await self._send(sample)
            studies = await self._settle(sample)
            await self._announced(sample)
            bindings = await self._delivered(sample)
            imaging_study = await self._imaging_study(sample)
            self._shown.rule("ImagingStudy")
            self._shown.print(
                JSON.from_data(imaging_study, highlight=self._shown.is_terminal), soft_wrap=True
            )
            self._shown.print(studies_table(studies))
            self._shown.print(_bindings_table(bindings))
            await self._show_urls(sample, imaging_study)
        except (MissingError, UnreachableError, aiohttp.ClientError, TimeoutError) as error:
            return [str(error) or type(error).__name__]
        self._shown.print(
            f"\nAll {sample.instances} instances are in both spaces, revision 0 is announced, "
            "and the FHIR server has the ImagingStudy.",
            style="green",
        )
        return []

    async def _send(self, sample: Sample) -> None:
        """One half of the study over DICOMweb, the other by C-STORE."""
        found = Summary()
        find_files([sample.folder], self._shown, found)
        half = len(found.files) // 2
        stow = StowClient(Destination.parse(self._base), concurrency=2, token=None)
        # Not `cstore_client`, which silences the log: the platform's is the same one here.
        c_store = CStoreClient(Peer.parse(self._entity), DimseOptions(), concurrency=2)
        ways: tuple[tuple[str, Client, list[DicomFile]], ...] = (
            (f"by STOW-RS to {self._base}", stow, found.files[:half]),
            (f"by C-STORE to {self._entity}", c_store, found.files[half:]),
        )
        there = 0
        for how, client, files in ways:
            self._shown.print(how)
            summary = Summary(files)
            await send_files(client, self._shown, summary)
            show(summary, self._shown)
            there += summary.stored + summary.already_there
        if there != sample.instances:
            raise MissingError(f"{there} of {sample.instances} instances were stored")

    async def _settle(self, sample: Sample) -> list[dict[str, Any]]:
        """Wait until the study is settled in both spaces, with a countdown; its rows."""

        async def settled() -> list[dict[str, Any]] | None:
            found = []
            for space in _SPACES:
                rows = (await self._api("studies", space=space))["studies"]
                found += [row for row in rows if row["study_instance_uid"] == sample.study]
            due = [row["revision_due_at"] for row in found if row["revision_due_at"]]
            left = max(0.0, (max(due) / 1e6 - time.time())) if due else 0.0
            progress.update(task, completed=self._delay - left, left=f"{left:.0f} s")
            return found if len(found) == len(_SPACES) and not due else None

        with Progress(
            TextColumn("settling"),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._shown,
            disable=not self._shown.is_terminal,
        ) as progress:
            task = progress.add_task("settle", total=self._delay, left=f"{self._delay:g} s")
            if progress.disable:
                self._shown.print(f"waiting for {self._delay:g} seconds of quiet")
            rows = await self._until(settled, "the study was not settled in both spaces")
        for row in rows:
            counts = (row["number_of_series"], row["number_of_instances"])
            if counts != (len(sample.series), sample.instances):
                raise MissingError(
                    f"the space {row['space']} has {counts[0]} series and {counts[1]} instances, "
                    f"not {len(sample.series)} and {sample.instances}"
                )
        return rows

    async def _announced(self, sample: Sample) -> None:
        revisions = await self._api(f"revisions/{_SPACES[0]}/{sample.study}")
        if 0 not in {one["number"] for one in revisions["revisions"]}:
            raise MissingError("revision 0 was not announced")

    async def _delivered(self, sample: Sample) -> list[dict[str, Any]]:
        """Wait until every binding has delivered what is owed; the bindings."""
        owed = {"stow": sample.instances, "fhir": 1}

        async def all_delivered() -> list[dict[str, Any]] | None:
            bindings: list[dict[str, Any]] = (await self._api("bindings"))["bindings"]
            done = all(
                one["delivered"] >= owed[one["name"]] and not one["pending"] and not one["dead"]
                for one in bindings
            )
            return bindings if done and len(bindings) == len(owed) else None

        try:
            return await self._until(all_delivered, "not all deliveries were made")
        except MissingError as error:
            counts = (await self._api("bindings"))["bindings"]
            raise MissingError(f"{error}: {counts}") from error

    async def _imaging_study(self, sample: Sample) -> dict[str, Any]:
        """The study on the FHIR server, with exactly the sample's series and instances."""
        found = await self._find_imaging_study(sample)
        if found is None:
            # An earlier demonstration in this folder delivered it to a receiver that is no more.
            body = {"binding": "fhir", "state": "delivered"}
            async with self._http.post(f"{self._base}/api/replay", json=body) as answer:
                answer.raise_for_status()
            await self._delivered(sample)
            found = await self._find_imaging_study(sample)
        if found is None:
            raise MissingError("the FHIR server has no ImagingStudy")
        series = {
            one["uid"]: frozenset(instance["uid"] for instance in one.get("instance", ()))
            for one in found.get("series", ())
        }
        counts = (found.get("numberOfSeries"), found.get("numberOfInstances"))
        if series != sample.series or counts != (len(sample.series), sample.instances):
            raise MissingError("the ImagingStudy has not the series and instances that were sent")
        return found

    async def _find_imaging_study(self, sample: Sample) -> dict[str, Any] | None:
        url = f"{self._fhir}/ImagingStudy?identifier=urn:dicom:uid|urn:oid:{sample.study}"
        bundle = await self._json(url)
        resources = [entry["resource"] for entry in bundle.get("entry", ())]
        if len(resources) > 1:
            raise MissingError("the FHIR server has the study more than once")
        return resources[0] if resources else None

    async def _show_urls(self, sample: Sample, imaging_study: Mapping[str, Any]) -> None:
        """The URLs to click; each must answer a browser."""
        dicomweb = f"{self._base}/dicom-web/studies"
        urls = (
            ("start here", f"{self._base}/"),
            ("API", f"{self._base}/api/docs"),
            ("studies (QIDO-RS)", dicomweb),
            ("metadata (WADO-RS)", f"{dicomweb}/{sample.study}/metadata"),
            ("forwarded copy", f"{self._base}/spaces/{_SPACES[1]}/dicom-web/studies"),
            ("the ordered log", f"{self._base}/api/changes"),
            ("delivery ledger", f"{self._base}/api/deliveries"),
            ("ImagingStudy", f"{self._fhir}/ImagingStudy/{imaging_study['id']}"),
        )
        self._shown.print("\nTo click")
        for name, url in urls:
            async with self._http.get(url, headers={"Accept": _ACCEPT}) as answer:
                await answer.read()
                if answer.status != 200:
                    raise MissingError(f"{url} answers {answer.status}")
            # On one line however long, or a terminal would not find its end.
            self._shown.print(f"  {name:20} {url}", soft_wrap=True)

    async def _until(
        self, look: Callable[[], Awaitable[Sequence[Any] | None]], otherwise: str
    ) -> list[Any]:
        """Look until there is something. Raises MissingError with `otherwise`."""
        try:
            async with asyncio.timeout(self._delay + _PATIENCE):
                # What it waits for happens in servers, which do not call back.
                while (found := await look()) is None:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK)
        except TimeoutError as error:
            raise MissingError(otherwise) from error
        return list(found)

    async def _api(self, resource: str, **parameters: str) -> Any:
        return await self._json(f"{self._base}/api/{resource}", parameters)

    async def _json(self, url: str, parameters: Mapping[str, str] | None = None) -> Any:
        async with self._http.get(url, params=parameters) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)


def _bindings_table(bindings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("binding", title="Deliveries")
    states = ("delivered", "pending", "dead")
    for state in states:
        table.add_column(state, justify="right")
    for one in bindings:
        table.add_row(plain(one["name"]), *(str(one[state]) for state in states))
    return table

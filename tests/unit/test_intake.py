"""Taking in: what is acknowledged is durable and known, what is refused leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
import zstandard
from instances import with_uids
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from removals import remove_unneeded
from structlog.testing import capture_logs

from imaging_ingestion.brokers.group_commit import GroupCommit
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.scan import ScanLimits, scan_bytes
from imaging_ingestion.events.broker import ReplayFilter, Subscription
from imaging_ingestion.events.model import Event
from imaging_ingestion.events.stored import (
    ConflictPolicy,
    StoredInstance,
    StoreOutcome,
    StoreResult,
)
from imaging_ingestion.intake import Intake, IntakeRefused, IntakeSettings, Received
from imaging_ingestion.intake import description as description_module
from imaging_ingestion.intake import reception as reception_module
from imaging_ingestion.manifest.database import SqliteDatabase
from imaging_ingestion.manifest.migrate import migrate
from imaging_ingestion.manifest.schema import instance, instance_metadata
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.space import SpaceFullError

STUDY, SERIES, SOP = "1.2.3", "1.2.3.4", "1.2.3.4.5"


class RecordingBroker:
    """The accepting half of a broker: group commit into a real manifest."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.group_commit = GroupCommit(database, timedelta(seconds=30), lambda: None)

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        return await self.group_commit.accept(stored)

    async def publish(self, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def subscribe(self, subscription: Subscription, handler: object) -> None:
        raise NotImplementedError

    async def start(self) -> None: ...

    async def stop(self) -> None:
        await self.group_commit.stop()

    async def replay(self, which: ReplayFilter) -> int:
        raise NotImplementedError


@dataclass
class Bench:
    """An intake over real parts."""

    space: DirectorySpace
    database: SqliteDatabase
    broker: RecordingBroker

    def intake(self, **settings: object) -> Intake:
        return Intake(self.space, self.broker, IntakeSettings(**settings))  # type: ignore[arg-type]

    async def objects(self) -> list[str]:
        await remove_unneeded(self.database, self.space)
        return sorted([name async for name in self.space.names()])

    async def recorded(self) -> dict[str, sa.Row[tuple[object, ...]]]:
        def rows(connection: sa.Connection) -> dict[str, sa.Row[tuple[object, ...]]]:
            statement = sa.select(instance, instance_metadata.c.json_zstd).join(instance_metadata)
            return {row.sop_instance_uid: row for row in connection.execute(statement)}

        return await self.database.read(rows)

    def left_over(self) -> list[Path]:
        incoming = self.space.root / ".incoming"
        return [path for path in incoming.rglob("*") if path.is_file()]

    async def content(self, name: str) -> bytes:
        reader = await self.space.open(name)
        try:
            return await reader.read(0, reader.size)
        finally:
            await reader.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = SqliteDatabase(tmp_path / "manifest.db")
    await migrate(database)
    space = DirectorySpace("default", tmp_path / "space")
    broker = RecordingBroker(database)
    yield Bench(space, database, broker)
    await broker.stop()
    await space.close()
    await database.close()


@pytest.fixture(scope="session")
def ct(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


def changed(source: Path, change: Callable[[Dataset], None]) -> bytes:
    """The file's bytes after a change to its data set."""
    with warnings.catch_warnings(action="ignore"):
        dataset = dcmread(source)
        change(dataset)
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


async def send(
    intake: Intake, data: bytes, *, chunk: int = 1 << 16, study: str | None = None
) -> Received:
    reception = intake.receive(source="test", provider="p", study_instance_uid=study)
    for offset in range(0, len(data), chunk):
        await reception.write(data[offset : offset + chunk])
    return await reception.finish()


async def refusal(intake: Intake, data: bytes, **how: object) -> IntakeRefused:
    with pytest.raises(IntakeRefused) as refused:
        await send(intake, data, **how)  # type: ignore[arg-type]
    return refused.value


@pytest.mark.parametrize("chunk", [1, 77, 1 << 16])
async def test_what_is_acknowledged_is_stored_as_received_and_recorded(
    bench: Bench, ct: Path, chunk: int
) -> None:
    data = with_uids(ct, STUDY, SERIES, SOP)
    received = await send(bench.intake(), data, chunk=chunk)
    assert (received.result, received.sop_instance_uid) == (StoreResult.CREATED, SOP)
    assert (received.study_instance_uid, received.series_instance_uid) == (STUDY, SERIES)
    row = (await bench.recorded())[SOP]
    assert await bench.objects() == [row.object_name]
    assert await bench.content(row.object_name) == data
    assert row.object_name.split("/")[1:3] == [STUDY, SERIES]
    assert (row.sha256, row.object_size) == (hashlib.sha256(data).digest(), len(data))
    assert (row.provider, row.rows) == ("p", 128)
    metadata = zstandard.ZstdDecompressor().decompress(row.json_zstd)
    assert metadata == scan_bytes(data).json
    assert bench.left_over() == []


async def test_every_real_file_is_stored_whole_or_refused_with_a_reason(
    bench: Bench, dicom_files: list[Path]
) -> None:
    intake = bench.intake()
    last: dict[str, bytes] = {}
    refusals: list[IntakeRefused] = []
    for path in dicom_files:
        data = await asyncio.to_thread(path.read_bytes)
        try:
            received = await send(intake, data)
        except IntakeRefused as told:
            refusals.append(told)
            continue
        last[received.sop_instance_uid] = data
    assert {told.failure_reason for told in refusals} <= {0x0122, 0xC000, 0xC122}
    assert all(told.message for told in refusals)
    assert len(refusals) < 0.2 * len(dicom_files)
    rows = await bench.recorded()
    assert set(rows) == set(last)
    # What was replaced is gone, what is recorded is there, byte for byte.
    assert await bench.objects() == sorted(row.object_name for row in rows.values())
    for uid, row in rows.items():
        assert await bench.content(row.object_name) == last[uid]
    assert bench.left_over() == []


async def test_the_same_again_changes_nothing_and_other_bytes_replace(
    bench: Bench, ct: Path
) -> None:  # S28 S29
    intake = bench.intake()
    first = with_uids(ct, STUDY, SERIES, SOP)
    other = changed(ct, lambda dataset: None).replace(b"1CT1", b"2CT2")
    other = with_uids_of(other, STUDY, SERIES, SOP)
    assert (await send(intake, first)).result is StoreResult.CREATED
    objects = await bench.objects()
    assert (await send(intake, first)).result is StoreResult.UNCHANGED
    assert await bench.objects() == objects
    assert (await send(intake, other)).result is StoreResult.REPLACED
    (name,) = await bench.objects()
    assert await bench.content(name) == other
    # Back and forth at once: whatever stays is whole, and is the one that is recorded.
    await asyncio.gather(*(send(intake, (first, other)[n % 2]) for n in range(20)))
    assert await bench.objects() == [(await bench.recorded())[SOP].object_name]
    assert bench.left_over() == []


def with_uids_of(data: bytes, study: str, series: str, sop: str) -> bytes:
    """As `with_uids`, for bytes."""
    dataset = dcmread(BytesIO(data))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = sop
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


async def test_a_space_that_keeps_refuses_other_bytes(bench: Bench, ct: Path) -> None:  # S29
    intake = bench.intake(conflict_policy=ConflictPolicy.KEEP)
    data = with_uids(ct, STUDY, SERIES, SOP)
    await send(intake, data)
    objects = await bench.objects()
    refused = await refusal(intake, data.replace(b"1CT1", b"2CT2"))
    assert (refused.failure_reason, refused.sop_instance_uid) == (0x0111, SOP)
    assert (await send(intake, data)).result is StoreResult.UNCHANGED
    assert await bench.objects() == objects


def without(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


def having(keyword: str, value: str) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def as_dicomdir(dataset: Dataset) -> None:
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    del dataset.SOPClassUID


def of_private_syntax(dataset: Dataset) -> None:
    dataset.file_meta[0x00020010].value = "1.2.3.4.5.6"


REFUSALS = [
    (without("SOPClassUID"), 0xC000, "SOP Class UID (0008,0016) is missing"),  # S23 S37
    (without("SOPInstanceUID"), 0xC000, "SOP Instance UID (0008,0018) is missing"),  # S23
    (without("StudyInstanceUID"), 0xC000, "Study Instance UID (0020,000D) is missing"),  # S23
    (having("SeriesInstanceUID", ""), 0xC000, "Series Instance UID (0020,000E) is missing"),
    (having("StudyInstanceUID", "1.2.x"), 0xC000, "Study Instance UID (0020,000D) is not made"),
    (having("SOPInstanceUID", "1" * 65), 0xC000, "SOP Instance UID (0008,0018) is 65 characters"),
    (as_dicomdir, 0x0122, "DICOMDIR"),  # S24 S37
    (of_private_syntax, 0xC122, "transfer syntax"),  # S24
]


@pytest.mark.parametrize(("change", "reason", "message"), REFUSALS)
async def test_an_instance_that_cannot_be_known_is_refused(
    bench: Bench, ct: Path, change: Callable[[Dataset], None], reason: int, message: str
) -> None:
    refused = await refusal(bench.intake(), changed(ct, change))
    assert refused.failure_reason == reason
    assert message in refused.message
    assert (await bench.objects(), bench.left_over()) == ([], [])
    assert await bench.recorded() == {}


async def test_an_instance_of_another_study_is_refused(bench: Bench, ct: Path) -> None:  # S22 S26
    data = with_uids(ct, STUDY, SERIES, SOP)
    refused = await refusal(bench.intake(), data, study="1.9")
    assert refused.failure_reason == 43265
    assert refused.sop_instance_uid == SOP
    assert refused.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert (await send(bench.intake(), data, study=STUDY)).sop_instance_uid == SOP


async def test_what_is_cut_off_or_no_dicom_is_not_understood(bench: Bench, ct: Path) -> None:  # S23
    intake = bench.intake()
    data = with_uids(ct, STUDY, SERIES, SOP)
    for broken in (b"", b"no DICOM at all" * 100, data[: len(data) // 2], data[:-3]):
        refused = await refusal(intake, broken)
        assert refused.failure_reason & 0xF000 == 0xC000
    assert (await bench.objects(), bench.left_over()) == ([], [])


async def test_a_header_beyond_the_limit_is_out_of_resources(bench: Bench, ct: Path) -> None:  # S21
    refused = await refusal(
        bench.intake(scan_limits=ScanLimits(header_bytes=1000)),
        with_uids(ct, STUDY, SERIES, SOP),
    )
    assert refused.failure_reason == 0xA701


async def test_after_a_refusal_the_rest_is_ignored(bench: Bench) -> None:
    reception = bench.intake().receive(source="test", provider="p")
    for _ in range(200):
        await reception.write(b"no DICOM at all" * 1000)
    assert bench.space.gathered == 0
    assert reception.sop_instance_uid is None
    with capture_logs() as logs, pytest.raises(IntakeRefused):
        await reception.finish()
    assert [(entry["event"], entry["failure_reason"]) for entry in logs] == [
        ("instance refused", "C000")
    ]
    with pytest.raises(RuntimeError, match="over"):
        await reception.write(b"")
    with pytest.raises(RuntimeError, match="once"):
        await reception.finish()


async def test_common_offences_pass_with_a_warning(bench: Bench, ct: Path) -> None:
    def offend(dataset: Dataset) -> None:
        dataset.StudyInstanceUID = "1.02.3"
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.9.9"

    received = await send(bench.intake(), changed(ct, offend))
    assert received.study_instance_uid == "1.02.3"
    assert any("leading zero" in warning for warning in received.warnings)
    assert any("file meta" in warning for warning in received.warnings)


async def test_a_data_set_without_preamble_and_meta_is_taken(bench: Bench, ct: Path) -> None:
    dataset = dcmread(ct)
    buffer = BytesIO()
    dataset.file_meta = FileMetaDataset()
    dataset.preamble = None
    dataset.save_as(buffer, enforce_file_format=False, implicit_vr=False, little_endian=True)
    received = await send(bench.intake(), buffer.getvalue())
    row = (await bench.recorded())[received.sop_instance_uid]
    assert row.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert await bench.content(row.object_name) == buffer.getvalue()


async def test_the_uid_is_known_before_the_instance_is_stored(bench: Bench, ct: Path) -> None:
    reception = bench.intake().receive(source="test", provider="p")
    await reception.write(with_uids(ct, STUDY, SERIES, SOP))
    assert reception.sop_instance_uid == SOP
    assert await bench.objects() == []
    await reception.finish()


async def test_what_is_aborted_leaves_nothing(bench: Bench, ct: Path) -> None:  # S34
    reception = bench.intake().receive(source="test", provider="p")
    await reception.write(with_uids(ct, STUDY, SERIES, SOP))
    await reception.write(b"x" * (2 << 20))
    await reception.abort()
    await reception.abort()
    assert (await bench.objects(), bench.left_over(), bench.space.gathered) == ([], [], 0)


async def test_a_full_space_is_told_and_leaves_nothing(
    bench: Bench, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # S21
    async def full(*_: object) -> None:
        raise SpaceFullError(28, "full")

    data = with_uids(ct, STUDY, SERIES, SOP)
    with monkeypatch.context() as patched:
        patched.setattr(DirectorySpace, "publish", full)
        refused = await refusal(bench.intake(), data)
    assert (refused.failure_reason, refused.sop_instance_uid) == (0xA700, SOP)
    assert (await bench.objects(), bench.left_over()) == ([], [])
    assert (await send(bench.intake(), data)).result is StoreResult.CREATED


async def test_a_manifest_that_is_away_is_our_failure(
    bench: Bench, ct: Path, tmp_path: Path
) -> None:
    empty = SqliteDatabase(tmp_path / "empty.db")
    intake = Intake(bench.space, RecordingBroker(empty))
    refused = await refusal(intake, with_uids(ct, STUDY, SERIES, SOP))
    assert refused.failure_reason == 0x0110
    await empty.close()


async def test_a_sender_that_goes_away_at_the_end_leaves_all_or_nothing(
    bench: Bench, ct: Path
) -> None:
    intake = bench.intake()
    sources = {f"1.2.3.4.{n}": with_uids(ct, STUDY, SERIES, f"1.2.3.4.{n}") for n in range(30)}

    async def leave(data: bytes, turns: int) -> None:
        reception = intake.receive(source="test", provider="p")
        try:
            await reception.write(data)
            finishing = asyncio.create_task(reception.finish())
            for _ in range(turns):
                await asyncio.sleep(0)
            finishing.cancel()
            await asyncio.wait({finishing})
        finally:
            await reception.abort()

    await asyncio.gather(*(leave(data, n) for n, data in enumerate(sources.values())))
    await intake.close()
    rows = await bench.recorded()
    assert await bench.objects() == sorted(row.object_name for row in rows.values())
    assert bench.left_over() == []
    for uid, row in rows.items():
        assert await bench.content(row.object_name) == sources[uid]


async def test_few_large_headers_are_taken_in_at_once(
    bench: Bench, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception_module, "LARGE_HEADER", 1000)

    def grow(dataset: Dataset) -> None:
        dataset.add_new(0x00104000, "LT", "x" * 5000)
        del dataset.PixelData

    data = changed(ct, grow)
    intake = bench.intake()
    held = [intake.receive(source="test", provider="p") for _ in range(6)]
    begun = [asyncio.create_task(one.write(data[:2000])) for one in held]
    done, waiting = await asyncio.wait(begun, timeout=0.1)
    assert (len(done), len(waiting)) == (4, 2)
    await asyncio.gather(*(one.abort() for one in held[:4]))
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    await asyncio.gather(*(one.abort() for one in held))
    assert (await send(intake, data, chunk=2000)).result is StoreResult.CREATED


async def test_many_at_once_are_all_there(bench: Bench, ct: Path) -> None:
    intake = bench.intake()
    sources = [with_uids(ct, f"1.{n % 7}", f"1.{n % 7}.1", f"1.{n % 7}.1.{n}") for n in range(150)]
    received = await asyncio.gather(*(send(intake, data) for data in sources))
    rows = await bench.recorded()
    assert len(rows) == len({one.sop_instance_uid for one in received}) == 150
    assert await bench.objects() == sorted(row.object_name for row in rows.values())


async def test_a_file_no_scanner_can_read_is_refused_as_the_scanner_says(
    bench: Bench, dicom_files: list[Path]
) -> None:
    for path in dicom_files:
        data = await asyncio.to_thread(path.read_bytes)
        why = None
        try:
            scan_bytes(data)
        except ScanError as error:
            why = error.reason
        if why is not None:
            assert (await refusal(bench.intake(), data)).message == why


def with_large_pixels(source: Path, size: int) -> bytes:
    def enlarge(dataset: Dataset) -> None:
        dataset.PixelData = bytes(size)

    return changed(source, enlarge)


async def test_a_large_instance_with_a_small_header_waits_for_nobody(
    bench: Bench, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception_module, "LARGE_HEADER", 20_000)
    data = with_large_pixels(ct, 200_000)
    intake = bench.intake()
    held = [intake.receive(source="test", provider="p") for _ in range(10)]
    # The first piece has the header and more than a large one's length of pixels.
    await asyncio.wait_for(asyncio.gather(*(one.write(data[:100_000]) for one in held)), 5)
    await asyncio.gather(*(one.abort() for one in held))
    assert bench.left_over() == []


async def test_of_a_refused_instance_no_header_is_held(bench: Bench) -> None:
    begin = b"\x08\x00\x18\x00UI\x04\x001.2\0"
    text = b"A\x00\x00\x10LO\x00\xc0" + b"x" * 0xC000
    reception = bench.intake().receive(source="test", provider="p")
    await reception.write(begin + text * 10)
    assert reception._scanner.held > 10 * 0xC000
    await reception.write(b"\xff" * 100)
    assert reception._scanner.held == 0
    with pytest.raises(IntakeRefused) as refused:
        await reception.finish()
    assert refused.value.sop_instance_uid == "1.2"
    plain = refused.value.plain()
    assert (plain.failure_reason, plain.message, plain.sop_instance_uid) == (
        refused.value.failure_reason,
        refused.value.message,
        "1.2",
    )
    assert plain.__traceback__ is plain.__cause__ is plain.__context__ is None


async def test_an_object_that_was_named_but_not_durably_is_removed(
    bench: Bench, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = DirectorySpace.publish

    async def half(space: DirectorySpace, objects: object) -> None:
        await publish(space, objects)  # type: ignore[arg-type]
        raise OSError(5, "the directory could not be made durable")

    with monkeypatch.context() as patched:
        patched.setattr(DirectorySpace, "publish", half)
        refused = await refusal(bench.intake(), with_uids(ct, STUDY, SERIES, SOP))
    assert (refused.failure_reason, refused.sop_instance_uid) == (0x0110, SOP)
    assert (await bench.objects(), bench.left_over()) == ([], [])
    assert await bench.recorded() == {}


async def test_a_fault_of_ours_leaves_nothing(
    bench: Bench, ct: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_header: object) -> None:
        raise ZeroDivisionError

    data = with_large_pixels(ct, 3 << 20)  # written to disk before it is finished
    with monkeypatch.context() as patched:
        patched.setattr(description_module, "columns_of", fails)
        with pytest.raises(ZeroDivisionError):
            await send(bench.intake(), data)
    assert (await bench.objects(), bench.left_over(), bench.space.gathered) == ([], [], 0)
    assert (await send(bench.intake(), data)).result is StoreResult.CREATED

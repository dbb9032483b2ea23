"""An object that lies in a space becomes an instance that can be recorded, or a precise error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from instances import padded, with_uids
from spaces import AnySpace, put

from imaging_ingestion.dicom.scan import ScanLimits
from imaging_ingestion.events.stored import StoredInstance, StoreOutcome, StoreResult
from imaging_ingestion.intake import Fault, FoundError, Intake, found_instance
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.object_name import object_name

SAMPLE = Path(__file__).resolve().parents[3] / "src/imaging_ingestion/cli/sample"
FILE = min(SAMPLE.rglob("*.dcm"))
INSTANCE = with_uids(FILE, "1.2.3", "1.2.3.4", "1.2.3.4.5")


@pytest.fixture
def folder(tmp_path: Path) -> DirectorySpace:
    return DirectorySpace("clinical", tmp_path / "folder")


async def fault_of(space: AnySpace, name: str, limits: ScanLimits | None = None) -> Fault:
    with pytest.raises(FoundError) as caught:
        await found_instance(space, name, provider="p", limits=limits)
    assert caught.value.object_name == name
    return caught.value.fault


class _Accepting:
    """Stands where the broker does, and keeps what it is given."""

    def __init__(self) -> None:
        self.accepted: list[StoredInstance] = []

    async def accept(self, stored: StoredInstance) -> StoreOutcome:
        self.accepted.append(stored)
        return StoreOutcome(StoreResult.CREATED)


async def test_what_is_found_is_what_had_arrived(
    space: AnySpace,
) -> None:
    broker = _Accepting()
    intake = Intake(space, broker)  # type: ignore[arg-type]  # takes what is accepted only
    reception = intake.receive(source="test", provider="scanner")
    await reception.write(INSTANCE)
    await reception.finish()
    await intake.close()
    (arrived,) = broker.accepted
    found = await found_instance(space, arrived.object_name, provider="scanner")
    assert found == arrived


async def test_an_object_is_known_by_its_content_whatever_its_name(folder: DirectorySpace) -> None:
    large = padded(INSTANCE, 5 << 20)
    await put(folder, "upstream/1.2.3.4.5", large)
    found = await found_instance(folder, "upstream/1.2.3.4.5", provider="p")
    assert (found.study_instance_uid, found.series_instance_uid) == ("1.2.3", "1.2.3.4")
    assert found.sop_instance_uid == "1.2.3.4.5"
    assert (found.object_size, found.sha256) == (len(large), hashlib.sha256(large).digest())


async def test_an_object_under_another_ones_name_is_told_from_it(folder: DirectorySpace) -> None:
    digest = hashlib.sha256(INSTANCE).digest()
    of_other = object_name("1.2.3", "1.2.3.4", "1.2.3.4.6", digest, "a1")
    of_other_content = object_name("1.2.3", "1.2.3.4", "1.2.3.4.5", bytes(32), "a1")
    await put(folder, of_other, INSTANCE)
    await put(folder, of_other_content, INSTANCE)
    assert await fault_of(folder, of_other) is Fault.OTHER_INSTANCE
    assert await fault_of(folder, of_other_content) is Fault.OTHER_CONTENT


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", Fault.NOT_DICOM),
        (b"a note that somebody left in the bucket" * 10, Fault.NOT_DICOM),
        (INSTANCE[:-100], Fault.MALFORMED),
        (with_uids(FILE, "1.2.3", "1.2.3.4", "not a UID"), Fault.NO_INSTANCE),
        (with_uids(FILE, "", "1.2.3.4", "1.2"), Fault.NO_INSTANCE),
    ],
)
async def test_what_is_no_instance_is_refused_with_the_reason(
    folder: DirectorySpace, content: bytes, fault: Fault
) -> None:
    await put(folder, "object", content)
    assert await fault_of(folder, "object") is fault


async def test_a_header_beyond_the_limit_is_not_held(folder: DirectorySpace) -> None:
    await put(folder, "object", INSTANCE)
    limits = ScanLimits(header_bytes=100)
    assert await fault_of(folder, "object", limits) is Fault.HEADER_TOO_LARGE


async def test_an_object_that_is_not_there_is_missing(
    space: AnySpace,
) -> None:
    assert await fault_of(space, "not/there") is Fault.MISSING

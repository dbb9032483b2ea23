"""The C-STORE binding: to dcmtk, to pynetdicom, and to peers that do as they are told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from certificates import Authority
from command import command
from dcmtk_peers import storescp
from instances import padded, with_uids
from platform_process import Platform, free_port
from pydicom.errors import InvalidDicomError
from pynetdicom import AE, evt
from pynetdicom.presentation import StoragePresentationContexts
from storage_peers import Collector, destination
from stow_site import StowSite, stow_site, until

from imaging_ingestion.association.connect import ConnectSettings
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.tls import TlsFiles, TlsSettings
from imaging_ingestion.association.tls_store import Store
from imaging_ingestion.bindings.association_pool import AssociationPool, StoreTarget
from imaging_ingestion.bindings.build import build_binding
from imaging_ingestion.bindings.cstore import CStoreBinding, CStoreTarget
from imaging_ingestion.bindings.selector import parse_selector
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dimse.command import CStoreRequest
from imaging_ingestion.events.broker import Handler, RefusedError, Subscription, TryAgainError
from imaging_ingestion.events.model import DICOM_AVAILABLE, Event
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.intake import IntakeRefused
from imaging_ingestion.manifest import ledger
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.ledger import LedgerEntry
from imaging_ingestion.resources.plan import CStorePlan
from imaging_ingestion.storage.space import Space
from imaging_ingestion.transcoding.transcoder import Transcoder

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.9", "1.2.826.0.1.3680043.8.498.9.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG, RLE, J2K = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
SOON = RetryPolicy(first=0.05, longest=0.2, attempts=1000)


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


@pytest.fixture(scope="session")
def instances(dicom_file: Callable[[str], Path]) -> list[bytes]:
    source = dicom_file("CT_small.dcm")
    return [with_uids(source, STUDY, SERIES, sop(number)) for number in range(12)]


def data_set_of(part10: bytes) -> bytes:
    return part10[scan_bytes(part10).dataset_offset :]


class Source:
    """A space with a C-STORE binding."""

    def __init__(self, site: StowSite, binding: CStoreBinding, pool: AssociationPool) -> None:
        self.site = site
        self.binding = binding
        self.pool = pool

    async def deliveries(self) -> list[LedgerEntry]:
        return await self.site.database.read(ledger.page, limit=5000)

    async def delivery(self, state: str, attempts: int = 1) -> LedgerEntry:
        """The one delivery there is, as soon as it is in that state after so many tries."""
        found: list[LedgerEntry] = []

        async def reached() -> bool:
            found[:] = await self.deliveries()
            return len(found) == 1 and found[0].state == state and found[0].attempts >= attempts

        try:
            await until(reached, f"the delivery is {state} after {attempts} tries")
        finally:
            print(found)
        return found[0]

    async def all_delivered(self, number: int) -> list[LedgerEntry]:
        found: list[LedgerEntry] = []

        async def reached() -> bool:
            found[:] = await self.deliveries()
            return len(found) == number and {one.state for one in found} == {"delivered"}

        await until(reached, f"{number} deliveries are made")
        return found


@asynccontextmanager
async def source(
    folder: Path,
    port: int,
    *,
    called: str = "STORESCP",
    size: int = 4,
    settings: ConnectSettings | None = None,
    transcoder: bool = True,
    selector: str | None = None,
    retry: RetryPolicy = SOON,
) -> AsyncIterator[Source]:
    """A space whose instances go to an application entity."""
    made = Transcoder() if transcoder else None
    target = StoreTarget("127.0.0.1", port, called, "INGESTION", settings or ConnectSettings())
    pool = AssociationPool(target, made, size=size)
    kept = CStoreTarget(pool, made)
    bindings = []

    def bind(database: Database, spaces: Mapping[str, Space]) -> list[tuple[Subscription, Handler]]:
        binding = CStoreBinding(kept, database, spaces)
        bindings.append(binding)
        wanted = parse_selector(selector)
        subscription = Subscription(
            "pacs",
            DICOM_AVAILABLE,
            concurrency=size,
            retry=retry,
            wants=lambda event: wanted.wants(event.provider),
        )
        return [(subscription, binding.deliver)]

    async with AsyncExitStack() as stack:
        stack.push_async_callback(kept.close)
        site = await stack.enter_async_context(stow_site(folder, bindings=bind))
        yield Source(site, bindings[0], pool)
        await until(lambda: not site.open_files(), "no file stays open")


@asynccontextmanager
async def both(folder: Path, collector: Collector, **how: object) -> AsyncIterator[Source]:
    """A source, and a peer of our own that collects."""
    syntaxes = how.pop("syntaxes", None)
    accepted = {} if syntaxes is None else {"syntaxes": syntaxes}
    async with (
        destination(collector, **accepted) as (peer, _),  # type: ignore[arg-type]
        source(folder, peer.port, called=peer.ae_title, **how) as sending,  # type: ignore[arg-type]
    ):
        yield sending


# --- what arrives


async def test_an_instance_arrives_as_it_is_stored(tmp_path: Path, instances: list[bytes]) -> None:
    collector = Collector()
    async with both(tmp_path, collector) as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("delivered")
        assert (entry.attempts, entry.answer) == (1, "0000H Success")
    (arrived,) = collector.arrived
    assert arrived.data_set == data_set_of(instances[0])
    assert arrived.transfer_syntax == EXPLICIT
    assert arrived.request.affected_sop_instance_uid == sop(0)
    assert arrived.request.move_originator_message_id is None


async def test_every_real_file_arrives_byte_for_byte(  # C7, C22
    tmp_path: Path, dicom_files: list[Path]
) -> None:
    collector = Collector()
    sent: dict[str, bytes] = {}
    seen = set()
    async with both(tmp_path, collector) as sending:
        for path in dicom_files:  # one of each transfer syntax
            try:
                header = scan_bytes(path.read_bytes())
                if header.transfer_syntax_uid in seen or not header.has_file_meta:
                    continue
                content = with_uids(path, STUDY, SERIES, sop(len(sent)))
                received = await sending.site.store(content)
            except (ValueError, IntakeRefused, InvalidDicomError, AttributeError):
                continue
            seen.add(header.transfer_syntax_uid)
            sent[received.sop_instance_uid] = data_set_of(content)
        await sending.all_delivered(len(sent))
    assert len(seen) > 12
    found = {one.request.affected_sop_instance_uid: one for one in collector.arrived}
    assert {uid: one.data_set for uid, one in found.items()} == sent
    assert {one.transfer_syntax for one in found.values()} == seen


async def test_associations_are_kept_open_and_used_again(
    tmp_path: Path, instances: list[bytes]
) -> None:
    collector = Collector()
    async with both(tmp_path, collector, size=2) as sending:
        for instance in instances:
            await sending.site.send(instance)
        await sending.all_delivered(len(instances))
        assert sending.pool.open_associations <= 2
    assert sorted(collector.uids) == sorted(sop(i) for i in range(len(instances)))
    assert len(collector.associations) <= 2


async def test_a_selector_chooses(tmp_path: Path, instances: list[bytes]) -> None:
    collector = Collector()
    async with both(tmp_path, collector, selector="somebody.*") as sending:
        await sending.site.send(instances[0])
    assert collector.arrived == []


async def test_a_large_instance_streams(tmp_path: Path, instances: list[bytes]) -> None:
    collector = Collector()
    async with both(tmp_path, collector) as sending:
        large = padded(instances[0], 64 << 20)
        await sending.site.send(large)
        await sending.delivery("delivered")
    assert collector.arrived[0].data_set == data_set_of(large)


# --- transfer syntaxes


@pytest.mark.parametrize("accepted", [IMPLICIT, BIG, EXPLICIT, RLE])
@pytest.mark.parametrize(
    "name",
    ["MR_small_jp2klossless.dcm", "MR_small_RLE.dcm", "MR_small.dcm", "MR_small_implicit.dcm"],
)
async def test_what_is_refused_is_transcoded_without_loss(
    tmp_path: Path, dicom_file: Callable[[str], Path], accepted: str, name: str
) -> None:
    collector = Collector()
    async with both(tmp_path, collector, syntaxes=(accepted,)) as sending:
        await sending.site.store_file(dicom_file(name))
        await sending.delivery("delivered")
    (arrived,) = collector.arrived
    assert arrived.transfer_syntax == accepted
    content = file_meta("1.2.3", "1.2.3", accepted) + arrived.data_set
    expected = pydicom.dcmread(dicom_file("MR_small.dcm")).pixel_array
    path = tmp_path / "arrived.dcm"
    await asyncio.to_thread(path.write_bytes, content)
    assert np.array_equal(pydicom.dcmread(path).pixel_array, expected)


async def test_what_is_accepted_is_not_transcoded(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    collector = Collector()
    async with both(tmp_path, collector, syntaxes=(EXPLICIT, IMPLICIT, J2K)) as sending:
        await sending.site.store_file(dicom_file("MR_small_jp2klossless.dcm"))
        await sending.delivery("delivered")
    assert [one.transfer_syntax for one in collector.arrived] == [J2K]


async def test_a_kind_that_comes_later_gets_its_own_context(
    tmp_path: Path, instances: list[bytes], dicom_file: Callable[[str], Path]
) -> None:
    collector = Collector()
    async with both(tmp_path, collector, size=1) as sending:
        await sending.site.send(instances[0])
        await sending.all_delivered(1)
        await sending.site.store_file(dicom_file("MR_small_RLE.dcm"))
        await sending.all_delivered(2)
        await sending.site.send(instances[1])
        await sending.all_delivered(3)
    assert [one.transfer_syntax for one in collector.arrived] == [EXPLICIT, RLE, EXPLICIT]
    assert len(collector.associations) == 2


async def test_pixels_that_cannot_be_decoded_are_a_dead_letter_and_the_rest_goes_on(
    tmp_path: Path, instances: list[bytes], dicom_file: Callable[[str], Path]
) -> None:
    collector = Collector()
    async with both(tmp_path, collector, syntaxes=(EXPLICIT,), size=1) as sending:
        broken = await sending.site.store_file(
            dicom_file("JPEG2000-embedded-sequence-delimiter.dcm")
        )
        await sending.site.send(instances[0])

        async def settled() -> bool:
            return {one.state for one in await sending.deliveries()} == {"dead", "delivered"}

        await until(settled, "one is dead and one delivered")
        dead = next(one for one in await sending.deliveries() if one.state == "dead")
        assert dead.answer is not None
        assert dead.answer.startswith("it cannot be transcoded: a frame cannot be decoded")
        assert broken.sop_instance_uid not in collector.uids
    assert collector.uids == [sop(0)]


async def test_a_class_that_the_target_does_not_take_is_a_dead_letter(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, Collector(), syntaxes=("1.2.840.10008.1.2.4.102",)) as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert entry.answer == (
            "the target accepts no instances of SOP class 1.2.840.10008.5.1.4.1.1.2"
        )


async def test_without_a_way_to_transcode_the_transfer_syntax_is_told(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(
        tmp_path, Collector(), syntaxes=(IMPLICIT,), transcoder=False, size=1
    ) as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert entry.answer is not None
        assert entry.answer.startswith("the target accepts no instances")


# --- answers


@contextmanager
def pynetdicom_scp(statuses: list[int], comment: str = "") -> Iterator[int]:
    """pynetdicom's SCP: answers these statuses, one after the other, then success."""
    left = list(statuses)

    def answer(event: evt.Event) -> pydicom.Dataset:
        status = pydicom.Dataset()
        status.Status = left.pop(0) if left else 0x0000
        if comment and status.Status:
            status.ErrorComment = comment
        return status

    entity = AE("STORESCP")
    for context in StoragePresentationContexts[:60]:
        entity.add_supported_context(context.abstract_syntax, [EXPLICIT, IMPLICIT])
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2", [EXPLICIT, IMPLICIT])
    port = free_port()
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]
    )
    try:
        yield port
    finally:
        server.shutdown()


@pytest.mark.parametrize("status", [0xA700, 0xA702, 0x0110, 0x0213])
async def test_what_may_pass_is_tried_again_until_it_has_passed(
    tmp_path: Path, instances: list[bytes], status: int
) -> None:
    with pynetdicom_scp([status] * 3) as port:
        async with source(tmp_path, port) as sending:
            await sending.site.send(instances[0])
            entry = await sending.delivery("delivered")
            assert (entry.attempts, entry.answer) == (4, "0000H Success")


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0124])
async def test_what_the_target_refuses_is_a_dead_letter_with_its_words(
    tmp_path: Path, instances: list[bytes], status: int
) -> None:
    with pynetdicom_scp([status] * 3, "the reason why") as port:
        async with source(tmp_path, port) as sending:
            await sending.site.send(instances[0])
            entry = await sending.delivery("dead")
            assert entry.attempts == 1
            assert entry.answer is not None
            assert entry.answer.startswith(f"{status:04X}H ")
            assert entry.answer.endswith(": the reason why")


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
async def test_a_warning_is_a_delivery_and_is_kept_in_the_ledger(
    tmp_path: Path, instances: list[bytes], status: int
) -> None:
    with pynetdicom_scp([status]) as port:
        async with source(tmp_path, port) as sending:
            await sending.site.send(instances[0])
            entry = await sending.delivery("delivered")
            assert entry.answer is not None
            assert entry.answer.startswith(f"{status:04X}H Warning: ")


async def test_pynetdicom_receives_the_data_set(tmp_path: Path, instances: list[bytes]) -> None:
    with pynetdicom_scp([]) as port:
        async with source(tmp_path, port) as sending:
            for instance in instances:
                await sending.site.send(instance)
            await sending.all_delivered(len(instances))


# --- targets that are away, or break off


async def test_a_target_that_is_not_there_is_tried_until_it_is(
    tmp_path: Path, instances: list[bytes]
) -> None:
    port = free_port()
    async with source(tmp_path, port, called="WORKSTATION") as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending", attempts=2)
        assert entry.answer is not None
        assert f"127.0.0.1:{port}" in entry.answer
        collector = Collector()
        async with destination(collector, port=port):
            await sending.delivery("delivered")
    assert collector.uids == [sop(0)]


async def test_a_title_that_the_target_does_not_know_is_tried_until_somebody_mends_it(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with (
        destination(Collector(), "WORKSTATION") as (peer, _),
        source(tmp_path, peer.port, called="WRONG") as sending,
    ):
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending", attempts=2)
        assert entry.answer is not None
        assert entry.answer.startswith("association rejected permanently")
        assert "called AE title not recognized" in entry.answer


async def test_an_association_that_breaks_off_is_tried_again(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async def breaks_off(number: int, request: IncomingRequest) -> None:
        if len(collector.associations) <= 3:
            await request.association.abort()

    collector = Collector(before=breaks_off)
    async with both(tmp_path, collector, size=1) as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("delivered")
        assert entry.attempts == 4
    assert len(collector.associations) == 4


async def test_one_that_was_kept_and_ended_meanwhile_costs_no_try(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async def breaks_off(number: int, request: IncomingRequest) -> None:
        if number == 1 and len(collector.associations) == 1:
            await request.association.abort()

    collector = Collector(before=breaks_off)
    async with both(tmp_path, collector, size=1) as sending:
        await sending.site.send(instances[0])
        await sending.all_delivered(1)
        await sending.site.send(instances[1])
        found = await sending.all_delivered(2)
        assert {one.attempts for one in found} == {1}
    assert len(collector.associations) == 2


async def test_a_target_that_does_not_answer_is_given_up_and_tried_again(
    tmp_path: Path, instances: list[bytes]
) -> None:
    silent = asyncio.Event()

    async def waits(number: int, request: IncomingRequest) -> None:
        if len(collector.associations) == 1:
            await silent.wait()

    collector = Collector(before=waits)
    settings = ConnectSettings(limits=AssociationLimits(response=0.3))
    async with both(tmp_path, collector, size=1, settings=settings) as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("delivered")
        assert entry.attempts == 2
    silent.set()


# --- instances that do not stay


async def test_what_was_replaced_meanwhile_goes_as_it_is_now(
    tmp_path: Path, instances: list[bytes]
) -> None:
    is_away = True

    def statuses(number: int, request: CStoreRequest) -> int:
        return 0xA700 if is_away else 0

    collector = Collector(statuses=statuses)
    newer = instances[0].replace(b"1CT1", b"2CT2")
    async with both(tmp_path, collector) as sending:
        await sending.site.send(instances[0])
        await sending.delivery("pending")
        await sending.site.send(newer)
        is_away = False
        await sending.all_delivered(2)
    assert {one.data_set for one in collector.arrived[-2:]} == {data_set_of(newer)}


async def test_what_was_deleted_meanwhile_needs_no_delivery(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, Collector(statuses=lambda number, request: 0xA700)) as sending:
        await sending.site.send(instances[0])
        await sending.delivery("pending")
        await sending.site.delete(STUDY)
        entry = await sending.delivery("delivered")
        assert entry.answer is not None
        assert entry.answer.startswith("gone: ")


async def test_an_object_that_is_missing_is_waited_for(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, Collector(), selector="nobody") as sending:
        await sending.site.send(instances[0])
        (name,) = await sending.site.objects()
        await sending.site.space.delete(name)
        with pytest.raises(TryAgainError, match="is missing"):
            await sending.binding.deliver(event_of(sop(0)))


async def test_an_object_that_cannot_be_read_to_its_end_is_tried_again(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async def loses_data(number: int, request: IncomingRequest) -> None:
        return None

    collector = Collector(before=loses_data)
    async with both(tmp_path, collector, selector="nobody") as sending:
        await sending.site.send(padded(instances[0], 64 << 20))
        (name,) = await sending.site.objects()
        delivering = asyncio.create_task(sending.binding.deliver(event_of(sop(0))))
        await until(lambda: bool(sending.pool.open_associations), "it is being sent")
        os.truncate(sending.site.root / name, 5000)
        with pytest.raises(TryAgainError, match="cannot be read"):
            await delivering
        assert collector.arrived == []


async def test_events_that_name_nothing_of_this_site_are_dead_letters(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, Collector()) as sending:
        with pytest.raises(RefusedError, match="'other' is not part of this site"):
            await sending.binding.deliver(event_of(sop(0), space="other"))
        with pytest.raises(RefusedError, match="names no instance"):
            await sending.binding.deliver(event_of(sop(0), sop_instance_uid=None))
        assert (await sending.binding.deliver(event_of("1.2.3"))).answer.startswith("gone: ")


def event_of(uid: str, **changes: object) -> Event:
    values: dict[str, object] = {
        "id": "1",
        "source": "/test",
        "type": DICOM_AVAILABLE,
        "subject": "instances",
        "time": "2024-01-01T00:00:00Z",
        "space": "default",
        "sop_instance_uid": uid,
    }
    return Event(**(values | changes))  # type: ignore[arg-type]


# --- dcmtk


@pytest.mark.parametrize("option", ["+xi", "+xe", "+xb", "+xd", "+xr", "+xv"])
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
async def test_storescp_gets_what_it_takes(
    tmp_path: Path, dicom_file: Callable[[str], Path], option: str, name: str
) -> None:
    async with (
        storescp(tmp_path / "scp", "+B", option) as peer,
        source(tmp_path / "site", peer.port) as sending,
    ):
        await sending.site.store_file(dicom_file(name))
        await sending.delivery("delivered")
        (path,) = peer.folder.iterdir()
        found = pydicom.dcmread(path)
    expected = "CT_small.dcm" if name.startswith("CT") else "MR_small.dcm"
    assert np.array_equal(found.pixel_array, pydicom.dcmread(dicom_file(expected)).pixel_array)


async def test_storescp_gets_many_at_once(tmp_path: Path, instances: list[bytes]) -> None:
    async with (
        storescp(tmp_path / "scp", "+B", "+xa", "--fork") as peer,
        source(tmp_path / "site", peer.port) as sending,
    ):
        for instance in instances:
            await sending.site.send(instance)
        await sending.all_delivered(len(instances))
        found = await asyncio.to_thread(peer.data_sets)
    assert found == {sop(i): data_set_of(instance) for i, instance in enumerate(instances)}


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--refuse", "association rejected permanently"),
        ("--abort-during", "aborted"),
        ("--abort-after", "aborted"),
    ],
)
async def test_a_storescp_that_breaks_off_is_tried_again_until_it_does_not(
    tmp_path: Path, instances: list[bytes], option: str, told: str
) -> None:
    port = free_port()
    async with source(tmp_path / "site", port) as sending:
        async with storescp(tmp_path / "bad", option, port=port):
            await sending.site.send(instances[0])
            entry = await sending.delivery("pending", attempts=2)
            assert told in str(entry.answer)
        async with storescp(tmp_path / "good", "+B", port=port) as peer:
            await sending.delivery("delivered")
            assert peer.data_sets() == {sop(0): data_set_of(instances[0])}


async def test_a_storescp_that_releases_after_each_association_is_called_again(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with (
        storescp(tmp_path / "scp", "+B", "--acse-timeout", "1") as peer,
        source(tmp_path / "site", peer.port, size=1) as sending,
    ):
        for number, instance in enumerate(instances[:3], 1):
            await sending.site.send(instance)
            await sending.all_delivered(number)


# --- TLS


async def test_a_target_is_called_over_tls(tmp_path: Path, instances: list[bytes]) -> None:
    authority = Authority()
    ca = authority.file(tmp_path / "ca.pem")
    server, client = authority.issue("server"), authority.issue("client", number=1)
    key, certificate = (
        server.key_file(tmp_path / "k.pem"),
        server.certificate_file(tmp_path / "c.pem"),
    )
    own = client.pem(tmp_path / "client.pem")
    tls = TlsFiles(
        TlsSettings(Store(own, None, None, None), Store(ca, None, None, None)), is_server=False
    )
    async with (
        storescp(
            tmp_path / "scp", "+B", "+tls", str(key), str(certificate), "+cf", str(ca)
        ) as peer,
        source(tmp_path / "site", peer.port, settings=ConnectSettings(tls=tls)) as sending,
    ):
        await sending.site.send(instances[0])
        await sending.delivery("delivered")
        assert peer.data_sets() == {sop(0): data_set_of(instances[0])}


async def test_a_target_that_is_not_trusted_is_told(tmp_path: Path, instances: list[bytes]) -> None:
    authority, other = Authority(), Authority("Another CA")
    server = authority.issue("server")
    key = str(server.key_file(tmp_path / "k.pem"))
    certificate = str(server.certificate_file(tmp_path / "c.pem"))
    trust = Store(other.file(tmp_path / "ca.pem"), None, None, None)
    tls = TlsFiles(TlsSettings(None, trust), is_server=False)
    async with (
        storescp(tmp_path / "scp", "+B", "+tls", key, certificate, "-ic") as peer,
        source(tmp_path / "site", peer.port, settings=ConnectSettings(tls=tls)) as sending,
    ):
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending", attempts=2)
        assert "unable to get local issuer certificate" in str(entry.answer)
        assert peer.data_sets() == {}


# --- built from a plan


def plan(port: int, **more: str) -> CStorePlan:
    from pydantic import SecretStr

    return CStorePlan(
        name="pacs",
        host="127.0.0.1",
        port=port,
        ae_title="WORKSTATION",
        calling_ae_title="US",
        tls={f"DIMSE_TLS_{key}": SecretStr(value) for key, value in more.items()},
        selector=None,
        concurrency=3,
    )


async def test_a_binding_is_built_from_its_plan(tmp_path: Path, instances: list[bytes]) -> None:
    collector = Collector()
    async with (
        destination(collector) as (peer, _),
        stow_site(tmp_path / "site") as site,
    ):
        await site.send(instances[0])
        binding = build_binding(
            plan(peer.port), parse_selector(None), site.database, {"default": site.space}, ""
        )
        assert binding.subscription.event_type == DICOM_AVAILABLE
        assert (binding.subscription.name, binding.subscription.concurrency) == ("pacs", 3)
        answer = await binding.handler(event_of(sop(0)))
        assert answer.answer == "0000H Success"
        await binding.target.close()
    assert collector.associations[0].agreement.calling_ae_title == "US"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"ENABLED": "perhaps"}, "true or false"),
        ({"ENABLED": "true", "TRUSTSTORE": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
        ({"ENABLED": "true", "CIPHER_SUITES": "ROT13"}, "ROT13"),
    ],
)
async def test_tls_keys_that_cannot_be_used_are_told_at_once(
    tmp_path: Path, keys: dict[str, str], problem: str
) -> None:
    async with stow_site(tmp_path / "site") as site:
        with pytest.raises(ValueError, match=problem):
            build_binding(
                plan(1, **keys), parse_selector(None), site.database, {"default": site.space}, ""
            )


SITE = """\
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomEventDrivenIngestion
metadata: {{name: core}}
spec: {{databaseConfigName: db}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: db}}
data: {{DB_KIND: sqlite}}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomwebIngestionService
metadata: {{name: web}}
spec: {{dicomEventDrivenIngestionName: core, providerName: hospital}}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomInstanceBinding
metadata: {{name: pacs}}
spec: {{dicomEventDrivenIngestionName: core, bindingConfigName: pacs}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: pacs}}
data:
  DIMSE_TARGET_HOST: 127.0.0.1
  DIMSE_TARGET_PORT: "{port}"
  DIMSE_TARGET_AE: WORKSTATION
  DIMSE_AE: HOSPITAL
  SELECTOR: hospital
"""


async def test_a_site_file_declares_it(
    tmp_path: Path, instances: list[bytes], dicom_file: Callable[[str], Path]
) -> None:
    collector = Collector()
    async with destination(collector, syntaxes=(EXPLICIT,)) as (peer, _):
        platform = Platform(tmp_path / "platform", SITE.format(port=peer.port))
        try:
            await asyncio.to_thread(platform.start)
            path = tmp_path / "one.dcm"
            path.write_bytes(instances[0])
            files = [path, dicom_file("MR_small_jp2klossless.dcm")]
            await asyncio.to_thread(command, "send", *files, "--to", platform.url)
            await until(lambda: len(collector.arrived) == 2, "both arrive")
            assert await asyncio.to_thread(platform.stop) == 0
        finally:
            platform.kill()
    assert {one.transfer_syntax for one in collector.arrived} == {EXPLICIT}
    assert collector.associations[0].agreement.calling_ae_title == "HOSPITAL"
    assert "Traceback" not in platform.log.read_text()

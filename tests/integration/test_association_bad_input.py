"""Whatever a peer does wrong: the standard's answer, nothing left of it, and others are served."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dimse_site import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    DimseSite,
    ct,
    dimse_site,
)
from instances import padded
from loops import BOTH_LOOPS
from raw_peer import RawPeer, message, raw_peer, store_request
from stow_site import until

from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.listener import ListenerSettings
from imaging_ingestion.dicom.scan import ScanLimits
from imaging_ingestion.dimse.command import CEchoRequest, CStoreRequest, CStoreResponse, respond
from imaging_ingestion.dimse.message import MessageWriter
from imaging_ingestion.dimse.p_data import fragment
from imaging_ingestion.dimse.pdu import AssociateAccept, ReleaseRequest, encode_pdu
from imaging_ingestion.dimse.requestor import build_request
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.intake import IntakeSettings

pytestmark = BOTH_LOOPS

USER, PROVIDER = 0, 2
NOT_SPECIFIED, UNRECOGNIZED, UNEXPECTED, UNEXPECTED_PARAMETER, INVALID = 0, 1, 2, 5, 6
#: How quickly these sites lose patience.
ARTIM, PROGRESS, IDLE = 1.0, 0.5, 2.0
SETTINGS = ListenerSettings(
    artim=ARTIM, limits=AssociationLimits(progress=PROGRESS, idle=IDLE, least_progress=1024)
)
HTTP = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
REQUEST = encode_pdu(build_request([CT], called_ae_title="INGESTION", calling_ae_title="RAW"))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[DimseSite]:
    async with dimse_site(tmp_path / "site") as running:
        yield running
        await running.assert_serves()


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[DimseSite]:
    async with dimse_site(tmp_path / "site", settings=SETTINGS) as running:
        yield running
        await running.assert_serves()


@pytest.fixture
async def peer(site: DimseSite) -> AsyncIterator[RawPeer]:
    """Connected, without an association."""
    async with raw_peer(site.port) as connected:
        yield connected


@pytest.fixture
async def associated(peer: RawPeer) -> RawPeer:
    """With an association for CT images."""
    await peer.associate(CT)
    return peer


def pdu(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack(">BxL", kind, len(body) if length is None else length) + body


def pdv(data: bytes, *, context_id: int = 1, control: int = 2, length: int | None = None) -> bytes:
    size = len(data) + 2 if length is None else length
    return struct.pack(">LBB", size, context_id, control) + data


def command_set(elements: bytes, group_length: int | None = None) -> bytes:
    size = len(elements) if group_length is None else group_length
    return struct.pack("<HHLL", 0, 0, 4, size) + elements


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def store_message(max_pdu_length: int = 4096) -> bytes:
    """A C-STORE-RQ of a CT image."""
    sent = ct()
    request = store_request(CT_IMAGE_STORAGE, sent.sop_instance)
    return message(1, request, sent.data_set, max_pdu_length)


def half_a_message(share: float = 0.5) -> bytes:
    """A share of that, in whole PDUs."""
    whole = store_message()
    end = 0
    while end < len(whole) * share:
        end += 6 + int(struct.unpack_from(">L", whole, end + 2)[0])
    assert end < len(whole)
    return whole[:end]


# ---- before there is an association


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(pdu(0x09, b"?"), UNRECOGNIZED, id="a PDU of an unknown type"),  # A16
        pytest.param(HTTP, UNRECOGNIZED, id="an HTTP request"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", UNRECOGNIZED, id="TLS"),
        pytest.param(b"\0" * 64, UNRECOGNIZED, id="zeros"),  # A20
        pytest.param(pdu(0x04, pdv(b"ab")), UNEXPECTED, id="data"),
        pytest.param(pdu(0x05, bytes(4)), UNEXPECTED, id="a release"),
        pytest.param(pdu(0x06, bytes(4)), UNEXPECTED, id="a release response"),
        pytest.param(pdu(0x02, REQUEST[6:]), UNEXPECTED, id="an acceptance"),
        pytest.param(pdu(0x01, b"", 0xFFFFFFFF), INVALID, id="a PDU of 4 GiB"),  # A20
        pytest.param(pdu(0x01), INVALID, id="an empty request"),
        pytest.param(pdu(0x01, REQUEST[6:80]), INVALID, id="a request cut short"),
        pytest.param(
            REQUEST[:76] + b"\xff\xff" + REQUEST[78:], INVALID, id="an item longer than its PDU"
        ),
    ],
)
async def test_what_cannot_begin_an_association_is_aborted(
    peer: RawPeer, sent: bytes, reason: int
) -> None:
    await peer.send(sent)
    assert await peer.aborted() == (PROVIDER, reason)
    peer.writer.close()  # PS3.8: it is ours to close now; what we do not, the ARTIM timer does
    assert await peer.closed() == b""


async def test_a_real_tls_client_on_the_plain_port_fails_and_disturbs_nobody(
    site: DimseSite,
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError):
        async with raw_peer(site.port, context):
            pass


async def test_data_behind_the_request_and_before_the_answer_is_aborted(peer: RawPeer) -> None:
    await peer.send(REQUEST + pdu(0x04, pdv(b"ab")))
    assert await peer.aborted() == (PROVIDER, UNEXPECTED)


async def test_a_second_request_is_aborted(associated: RawPeer) -> None:
    await associated.send(REQUEST)
    assert await associated.aborted() == (PROVIDER, UNEXPECTED)


# ---- PDUs on an association


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(pdu(0xFE, b"?"), (PROVIDER, UNRECOGNIZED), id="unknown PDU type"),
        pytest.param(pdu(0x04), (PROVIDER, INVALID), id="P-DATA-TF of no bytes"),
        pytest.param(
            pdu(0x04, pdv(b"ab"), 0x7FFFFFFF), (PROVIDER, INVALID), id="longer than we announced"
        ),
        pytest.param(
            pdu(0x04, pdv(b"ab", length=400)), (PROVIDER, INVALID), id="PDV that exceeds its PDU"
        ),
        pytest.param(pdu(0x04, pdv(b"", length=0)), (PROVIDER, INVALID), id="PDV of length 0"),
        pytest.param(pdu(0x04, pdv(b"", length=1) + b"??"), (PROVIDER, INVALID), id="of length 1"),
        pytest.param(pdu(0x04, pdv(b"ab") + b"???"), (PROVIDER, INVALID), id="bytes behind a PDV"),
        pytest.param(
            pdu(0x04, pdv(b"ab", context_id=3, control=3)),
            (PROVIDER, UNEXPECTED_PARAMETER),
            id="presentation context that was not proposed",
        ),
        pytest.param(
            pdu(0x04, pdv(b"ab")), (PROVIDER, UNEXPECTED_PARAMETER), id="data set of no command"
        ),
        pytest.param(pdu(0x06, bytes(4)), (PROVIDER, UNEXPECTED), id="release response"),
    ],
)
async def test_a_malformed_pdu_on_an_association_is_aborted(
    associated: RawPeer, sent: bytes, answer: tuple[int, int]
) -> None:  # A7, A8, A16
    await associated.send(sent)
    assert await associated.aborted() == answer


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"ab", id="too short for any"),
        pytest.param(
            command_set(element(0x100, b"\x30\0") + element(0x800, b"\x01\x01"), 4),
            id="wrong group length",
        ),
        pytest.param(
            command_set(struct.pack("<HHL", 0, 0x100, 60000) + b"\x30\0"), id="over-long element"
        ),
        pytest.param(
            command_set(element(0x100, b"\x30\0") + element(0x800, b"\x01\x01")),
            id="no message id",
        ),
        pytest.param(
            command_set(struct.pack("<HHL", 8, 0x16, 2) + b"1\0"), id="element of another group"
        ),
    ],
)
async def test_a_command_set_that_cannot_be_read_is_aborted_by_the_user(
    associated: RawPeer, data: bytes
) -> None:  # A22
    await associated.send(pdu(0x04, pdv(data, control=3)))
    assert await associated.aborted() == (USER, NOT_SPECIFIED)


async def test_a_command_set_without_end_is_aborted(associated: RawPeer) -> None:
    piece = pdu(0x04, pdv(bytes(16000), control=1))
    await associated.send(*[piece] * 10)
    assert await associated.aborted() == (USER, NOT_SPECIFIED)


async def test_a_command_inside_a_data_set_is_aborted_and_nothing_left(
    site: DimseSite, associated: RawPeer
) -> None:  # A8
    echo = message(1, CEchoRequest(message_id=2, affected_sop_class_uid=ECHO.abstract_syntax))
    await associated.send(half_a_message(), echo)
    assert await associated.aborted() == (PROVIDER, UNEXPECTED_PARAMETER)
    await site.site.assert_holds()


async def test_a_release_in_the_middle_of_a_data_set_is_aborted(
    site: DimseSite, associated: RawPeer
) -> None:
    await associated.send(half_a_message(), encode_pdu(ReleaseRequest()))
    assert await associated.aborted() == (PROVIDER, UNEXPECTED)
    await site.site.assert_holds()


# ---- requests that are answered, and the association goes on


async def answered(peer: RawPeer, request: CStoreRequest, data: bytes | None) -> CStoreResponse:
    """Send a request; its answer, after which the association is still there."""
    await peer.send(message(1, request, data))
    answer = await peer.answer()
    assert answer.message_id_being_responded_to == request.message_id
    sent = ct(number=77)
    await peer.send(
        message(1, store_request(CT_IMAGE_STORAGE, sent.sop_instance, 9), sent.data_set)
    )
    after = await peer.answer()
    assert isinstance(after, CStoreResponse)
    assert after.status == 0
    return answer


async def test_a_data_set_that_is_no_dicom_is_not_understood(
    site: DimseSite, associated: RawPeer
) -> None:  # C5
    answer = await answered(
        associated, store_request(CT_IMAGE_STORAGE, "1.2.3"), b"\xff\xd8\xff\xe0" * 5000
    )
    assert answer.status == 0xC000
    assert answer.affected_sop_instance_uid == "1.2.3"  # C2
    assert answer.error_comment
    await site.site.assert_holds(ct(number=77).sop_instance)


async def test_a_data_set_that_ends_too_early_is_not_understood(
    site: DimseSite, associated: RawPeer
) -> None:
    sent = ct()
    answer = await answered(
        associated, store_request(CT_IMAGE_STORAGE, sent.sop_instance), sent.data_set[:-1000]
    )
    assert answer.status == 0xC000
    assert answer.error_comment is not None
    assert "ends" in answer.error_comment
    await site.site.assert_holds(ct(number=77).sop_instance)


async def test_an_empty_data_set_is_not_understood(site: DimseSite, associated: RawPeer) -> None:
    answer = await answered(associated, store_request(CT_IMAGE_STORAGE, "1.2.3"), b"")
    assert answer.status == 0xC000


async def test_a_request_that_has_no_data_set_is_not_understood(associated: RawPeer) -> None:
    answer = await answered(associated, store_request(CT_IMAGE_STORAGE, "1.2.3"), None)
    assert answer.status == 0xC000


async def test_another_uid_in_the_data_set_does_not_match(
    site: DimseSite, associated: RawPeer
) -> None:  # C5
    answer = await answered(associated, store_request(CT_IMAGE_STORAGE, "1.2.3.4"), ct().data_set)
    assert answer.status == 0xA900
    assert answer.error_comment == "SOP Instance UID of command and data set differ"
    await site.site.assert_holds(ct(number=77).sop_instance)


async def test_an_invalid_uid_in_the_command_is_an_invalid_instance(associated: RawPeer) -> None:
    request = store_request(CT_IMAGE_STORAGE, "1..2x")
    assert (await answered(associated, request, ct().data_set)).status == 0x0117


async def test_a_dicomdir_is_not_supported(associated: RawPeer) -> None:
    sent = ct()
    data = sent.data_set.replace(
        b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.3.10".ljust(26, b"\0")
    )
    request = store_request(CT_IMAGE_STORAGE, sent.sop_instance)
    assert (await answered(associated, request, data)).status == 0x0122


async def test_an_unknown_command_is_an_unrecognized_operation(associated: RawPeer) -> None:  # A22
    elements = (
        element(0x002, CT_IMAGE_STORAGE.encode() + b"\0")
        + element(0x100, b"\x99\x09")
        + element(0x110, b"\x05\0")
        + element(0x800, b"\x01\x01")
    )
    await associated.send(pdu(0x04, pdv(command_set(elements), control=3)))
    answer = await associated.read()
    assert element(0x100, b"\x99\x89") in answer
    assert element(0x120, b"\x05\0") in answer
    assert element(0x900, b"\x11\x02") in answer


async def test_c_echo_on_a_storage_context_is_an_unrecognized_operation(
    associated: RawPeer,
) -> None:
    echo = CEchoRequest(message_id=7, affected_sop_class_uid=ECHO.abstract_syntax)
    await associated.send(message(1, echo))
    assert (await associated.answer()).status == 0x0211


async def test_a_message_id_in_use_is_a_duplicate_invocation(
    site: DimseSite, associated: RawPeer
) -> None:  # A22
    one, other = ct(number=1), ct(number=2)
    await associated.send(
        message(1, store_request(CT_IMAGE_STORAGE, one.sop_instance, 4), one.data_set)
        + message(1, store_request(CT_IMAGE_STORAGE, other.sop_instance, 4), other.data_set)
    )
    statuses = sorted([(await associated.answer()).status for _ in range(2)])
    assert statuses == [0x0000, 0x0210]
    await site.site.assert_holds(one.sop_instance)


async def test_a_response_that_nobody_waits_for_is_aborted(associated: RawPeer) -> None:
    request = store_request(CT_IMAGE_STORAGE, "1.2.3")
    await associated.send(message(1, respond(request, 0)))
    assert await associated.aborted() == (PROVIDER, UNEXPECTED_PARAMETER)


async def test_a_header_beyond_the_limit_is_out_of_resources(tmp_path: Path) -> None:  # C4
    limited = IntakeSettings(scan_limits=ScanLimits(header_bytes=1000))
    async with dimse_site(tmp_path / "site", intake=limited) as site:
        async with raw_peer(site.port) as peer:
            await peer.associate(CT)
            sent = ct()
            await peer.send(
                message(1, store_request(CT_IMAGE_STORAGE, sent.sop_instance), sent.data_set)
            )
            assert (await peer.answer()).status == 0xA701
        await site.site.assert_holds()


async def test_an_instance_that_the_space_keeps_is_refused_for_good(tmp_path: Path) -> None:  # S29
    keeping = IntakeSettings(conflict_policy=ConflictPolicy.KEEP)
    async with dimse_site(tmp_path / "site", intake=keeping) as site:
        async with raw_peer(site.port) as peer:
            await peer.associate(CT)
            sent = ct()
            request = store_request(CT_IMAGE_STORAGE, sent.sop_instance)
            other = sent.data_set.replace(b"CompressedSamples", b"compressedSamples")
            assert other != sent.data_set
            statuses = []
            for data in (sent.data_set, sent.data_set, other):
                await peer.send(message(1, request, data))
                statuses.append((await peer.answer()).status)
        assert statuses == [0, 0, 0xC111]
        assert await site.data_set_of(sent.sop_instance) == sent.data_set


async def test_a_full_disk_is_out_of_resources_for_now(site: DimseSite) -> None:  # C4
    sent = ct()
    data = padded(sent.data_set, 3 << 20)
    request = store_request(CT_IMAGE_STORAGE, sent.sop_instance)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with raw_peer(site.port) as peer:
        await peer.associate(CT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, hard))
        try:
            await peer.send(message(1, request, data))
            refused = await peer.answer()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert isinstance(refused, CStoreResponse)
        assert refused.status == 0xA700
        assert refused.error_comment == "the storage space is full"
        await site.site.assert_holds()
        await peer.send(message(1, request, data))
        assert (await peer.answer()).status == 0
    await site.site.assert_holds(sent.sop_instance)


# ---- ends in the middle


@pytest.mark.parametrize("how", ["abort", "close", "reset", "garbage"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
async def test_what_ends_in_the_middle_of_a_data_set_leaves_nothing(
    site: DimseSite, how: str, share: float
) -> None:  # A18
    async with raw_peer(site.port) as peer:
        await peer.associate(CT)
        if how == "abort":
            await peer.send(half_a_message(share), pdu(0x07, b"\0\0\0\0"))
        elif how == "garbage":
            await peer.send(half_a_message(share), b"\xff" * 100)
            assert await peer.aborted() == (PROVIDER, UNRECOGNIZED)
        else:
            whole = store_message()
            await peer.send(whole[: int(len(whole) * share)])
            if how == "close":
                peer.writer.close()
            else:
                peer.cut()
        await until(lambda: site.listener.associations == 0, "the association is forgotten")
    await site.site.assert_holds()


async def test_a_connection_that_is_cut_while_it_is_stored_may_have_been_stored(
    site: DimseSite,
) -> None:
    async with raw_peer(site.port) as peer:
        await peer.associate(CT)
        await peer.send(store_message())
        peer.cut()
    await until(lambda: site.listener.associations == 0, "the association is forgotten")
    await site.site.service.intake.close()
    await site.site.assert_holds(*(await site.site.recorded()))


# ---- too slow


async def test_silence_after_the_connection_is_ended_by_the_artim_timer(
    impatient: DimseSite,
) -> None:  # A17
    async with raw_peer(impatient.port) as peer:
        assert await peer.closed() == b""


async def test_a_request_that_trickles_in_is_ended_by_the_artim_timer(
    impatient: DimseSite,
) -> None:
    async with raw_peer(impatient.port) as peer:
        async with asyncio.timeout(30):
            for byte in REQUEST:
                if peer.reader.at_eof():
                    break
                await peer.send(bytes((byte,)))
                await asyncio.sleep(ARTIM / 20)
        assert await peer.closed() == b""


async def test_a_data_set_that_trickles_in_is_aborted_and_nothing_left(
    impatient: DimseSite,
) -> None:
    whole = store_message()
    async with raw_peer(impatient.port) as peer:
        await peer.associate(CT)
        await peer.send(whole[:20_000])
        aborted = asyncio.ensure_future(peer.aborted())
        for at in range(20_000, len(whole)):
            if aborted.done():
                break
            await peer.send(whole[at : at + 1])
            await asyncio.sleep(PROGRESS / 20)
        assert await aborted == (USER, NOT_SPECIFIED)
    await until(lambda: impatient.listener.associations == 0, "the association is forgotten")
    await impatient.site.assert_holds()


async def test_a_slow_data_set_that_makes_progress_is_stored(tmp_path: Path) -> None:
    limits = AssociationLimits(progress=1.0, idle=1.0, least_progress=1024)
    settings = ListenerSettings(limits=limits)
    async with dimse_site(tmp_path / "site", settings=settings) as site:
        async with raw_peer(site.port) as peer:
            await peer.associate(CT)
            whole = store_message()
            for at in range(0, len(whole), 2048):
                await peer.send(whole[at : at + 2048])
                await asyncio.sleep(0.15)
            assert (await peer.answer()).status == 0
        await site.site.assert_holds(ct().sop_instance)


async def test_an_idle_association_is_ended(impatient: DimseSite) -> None:  # A17
    async with raw_peer(impatient.port) as peer:
        await peer.associate(CT)
        assert await peer.aborted() == (USER, NOT_SPECIFIED)


async def test_a_peer_that_does_not_close_after_an_abort_is_closed(impatient: DimseSite) -> None:
    async with raw_peer(impatient.port) as peer:
        await peer.send(pdu(0x09, b"?"))
        assert await peer.aborted() == (PROVIDER, UNRECOGNIZED)
        assert await peer.closed() == b""


async def test_a_peer_that_stops_reading_is_aborted_and_costs_little(
    impatient: DimseSite,
) -> None:
    echo = message(1, CEchoRequest(message_id=1, affected_sop_class_uid=ECHO.abstract_syntax))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", impatient.port))
        reader, writer = await asyncio.open_connection(sock=connection)
        peer = RawPeer(reader, writer)
        await peer.associate(ECHO)
        writer.transport.pause_reading()

        async def ask_for_ever() -> None:
            while not writer.is_closing():
                await peer.send(echo * 200)
                await asyncio.sleep(0)

        asking = asyncio.ensure_future(ask_for_ever())
        try:
            await until(lambda: impatient.listener.associations == 0, "it is aborted")
        finally:
            asking.cancel()
            writer.transport.abort()


# ---- too many


async def test_thousands_of_silent_connections_harm_nobody(tmp_path: Path) -> None:
    settings = ListenerSettings(max_associations=20, max_waiting=50)
    async with dimse_site(tmp_path / "site", settings=settings) as site:
        before = await site.call(CT)
        loop = asyncio.get_running_loop()
        crowd = []
        try:
            for _ in range(2500):
                connection = socket.socket()
                connection.setblocking(False)
                crowd.append(connection)
                await loop.sock_connect(connection, ("127.0.0.1", site.port))
            await site.assert_serves(1)
            assert before.is_open
            await before.release()
        finally:
            for connection in crowd:
                connection.close()
        await site.assert_serves(2)


async def test_beyond_the_limit_associations_are_rejected_for_now(tmp_path: Path) -> None:  # A4
    settings = ListenerSettings(max_associations=5, max_waiting=300)
    async with dimse_site(tmp_path / "site", settings=settings) as site:
        request = build_request([CT], called_ae_title="INGESTION", calling_ae_title="RAW")

        async def ask(peer: RawPeer) -> object:
            return await peer.ask(request)

        peers = []
        try:
            for _ in range(200):
                reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
                peers.append(RawPeer(reader, writer))
            answers = await asyncio.gather(*map(ask, peers))
        finally:
            for peer in peers:
                peer.cut()
        accepted = [a for a in answers if isinstance(a, AssociateAccept)]
        rejected = {(a.result, a.source, a.reason) for a in answers if a not in accepted}
        assert len(accepted) == 5
        assert rejected == {(2, 3, 2)}
        await until(lambda: site.listener.associations == 0, "all are forgotten")
        await site.assert_serves()


@pytest.mark.parametrize("sent", [HTTP, REQUEST, b"\x04"])
async def test_floods_that_hang_up_at_once_leave_nothing(site: DimseSite, sent: bytes) -> None:
    for _ in range(100):
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        await RawPeer(reader, writer).send(sent)
        writer.transport.abort()
    await until(lambda: site.listener.associations == 0, "all are forgotten")


async def test_fragments_of_one_byte_are_stored_as_any(
    site: DimseSite, associated: RawPeer
) -> None:  # A7
    sent = ct()
    command = MessageWriter(4096).command(
        1, store_request(CT_IMAGE_STORAGE, sent.sop_instance), has_data_set=True
    )
    tiny = [pdu(0x04, pdv(sent.data_set[at : at + 1], control=0)) for at in range(3000)]
    rest = fragment(1, sent.data_set[3000:], is_command=False, is_last=True, max_pdu_length=4096)
    await associated.send(b"".join([*command.buffers, *tiny, *rest.buffers]))
    assert (await associated.answer()).status == 0
    assert await site.data_set_of(sent.sop_instance) == sent.data_set

"""pynetdicom as SCU against our C-ECHO and C-STORE, and as SCP for our requestor."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dimse_site import AE_TITLE, CT, CT_IMAGE_STORAGE, EXPLICIT, DimseSite, ct, dimse_site, store
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import CTImageStorage, Verification
from stow_site import until

from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.error import AssociationAbortedError, AssociationRejectedError
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dimse.requestor import Proposal


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[DimseSite]:
    async with dimse_site(tmp_path / "site") as running:
        yield running


def association(port: int, contexts: list[PresentationContext], max_pdu: int = 16382) -> Any:
    """A pynetdicom association with a site."""
    ae = AE(ae_title="PYNETDICOM")
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title=AE_TITLE, max_pdu=max_pdu)


def send_raw(assoc: Any, context_id: int, sop_class: str, sop_instance: str, data: bytes) -> int:
    """C-STORE with a data set as it is, never decoded; the status."""
    message = C_STORE()
    message.MessageID = 1
    message.AffectedSOPClassUID = UID(sop_class)
    message.AffectedSOPInstanceUID = UID(sop_instance)
    message.Priority = 0
    message.DataSet = io.BytesIO(data)
    # As its own `send_c_store` does, but that would decode the data set and encode it again.
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(message, context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert answer is not None, "no response"
    assert answer.MessageIDBeingRespondedTo == 1
    assert (answer.AffectedSOPClassUID or sop_class) == sop_class  # C2
    return int(answer.Status)


async def test_c_echo_and_release(site: DimseSite) -> None:  # C1, A19
    def echo() -> int:
        assoc = association(site.port, [build_context(Verification)])
        assert assoc.is_established
        status = assoc.send_c_echo().Status
        assoc.release()
        assert assoc.is_released
        return int(status)

    assert await asyncio.to_thread(echo) == 0
    await until(lambda: site.listener.associations == 0, "the association is forgotten")


async def test_one_class_in_many_transfer_syntaxes_on_one_association(
    site: DimseSite, dicom_files: list[Path]
) -> None:  # C8, A5
    by_syntax: dict[str, Path] = {}
    for path in dicom_files:
        if path.name.startswith("CTImage.dcm_"):
            syntax = path.name.removesuffix(".dcm").rsplit("_", 1)[1]
            by_syntax.setdefault(syntax, path)
    if not by_syntax:
        by_syntax = {str(ExplicitVRLittleEndian): next(iter(dicom_files))}
    files = [(syntax, *_data_set(path)) for syntax, path in sorted(by_syntax.items())]
    contexts = [build_context(CTImageStorage, syntax) for syntax, *_ in files]

    def run() -> list[int]:
        assoc = association(site.port, contexts)
        assert assoc.is_established
        accepted = {str(c.transfer_syntax[0]): c.context_id for c in assoc.accepted_contexts}
        assert set(accepted) == {syntax for syntax, *_ in files}
        statuses = [
            send_raw(assoc, accepted[syntax], CT_IMAGE_STORAGE, sop_instance, data)
            for syntax, _, sop_instance, data in files
        ]
        assoc.release()
        return statuses

    assert set(await asyncio.to_thread(run)) == {0}


def _data_set(path: Path) -> tuple[str, str, bytes]:
    """SOP class, SOP instance and data set of a Part 10 file."""
    whole = path.read_bytes()
    header = scan_bytes(whole)
    sop_class, sop_instance = header.text(0x00080016), header.text(0x00080018)
    assert sop_class
    assert sop_instance
    return sop_class, sop_instance, whole[header.dataset_offset :]


def _usable(path: Path) -> tuple[str, str, str, bytes] | None:
    """What a C-STORE of a file needs; None for a file that is no whole instance."""
    whole = path.read_bytes()
    if whole[128:132] != b"DICM" or len(whole) > 64 << 20:
        return None
    try:
        header = scan_bytes(whole)
    except ScanError:
        return None
    uids = [header.text(tag) for tag in (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)]
    sop_class, sop_instance = uids[:2]
    if not all(uids) or sop_class == "1.2.840.10008.1.3.10" or not header.has_file_meta:
        return None
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != header.transfer_syntax_uid:
        return None
    assert sop_class
    assert sop_instance
    return sop_class, sop_instance, header.transfer_syntax_uid, whole[header.dataset_offset :]


async def test_every_real_file_is_stored_with_its_data_set_as_it_was(
    site: DimseSite, dicom_files: list[Path]
) -> None:  # C7, promise 3
    usable = [found for found in map(_usable, dicom_files) if found is not None]
    assert len(usable) > 50
    # Of instances that are in several files under one UID, the last one sent is kept.
    last = {sop_instance: data for _, sop_instance, _, data in usable}
    groups: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
    for sop_class, sop_instance, syntax, data in usable:
        if data is last[sop_instance]:
            groups.setdefault((sop_class, syntax), []).append((sop_instance, data))
    kinds = list(groups)
    refused: list[tuple[str, int]] = []
    for start in range(0, len(kinds), 128):
        chunk = kinds[start : start + 128]
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in chunk]

        def run(
            chunk: list[tuple[str, str]] = chunk, contexts: list[PresentationContext] = contexts
        ) -> None:
            assoc = association(site.port, contexts, max_pdu=0)
            assert assoc.is_established
            accepted = {
                (str(c.abstract_syntax), str(c.transfer_syntax[0])): c.context_id
                for c in assoc.accepted_contexts
            }
            for kind in chunk:
                for sop_instance, data in groups[kind]:
                    status = send_raw(assoc, accepted[kind], kind[0], sop_instance, data)
                    if status:
                        refused.append((sop_instance, status))
            assoc.release()

        await asyncio.to_thread(run)
    assert not refused
    rows = await site.site.recorded()
    assert set(rows) == set(last)
    for sop_instance, row in rows.items():
        stored = await asyncio.to_thread((site.site.root / row.object_name).read_bytes)
        assert stored.endswith(last[sop_instance])
        (length,) = struct.unpack_from("<L", stored, 140)
        assert len(stored) == 144 + length + len(last[sop_instance])
        assert (
            pydicom.filereader.read_file_meta_info(
                site.site.root / row.object_name
            ).MediaStorageSOPInstanceUID
            == sop_instance
        )


@contextmanager
def pynetdicom_scp(**handlers: Callable[[Any], Any]) -> Iterator[int]:
    """pynetdicom's SCP for CT images and C-ECHO; its port."""
    ae = AE(ae_title="PYNETDICOM")
    ae.add_supported_context(CTImageStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    ae.add_supported_context(Verification)
    ae.require_called_aet = True
    events = [(getattr(evt, name), handler) for name, handler in handlers.items()]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=events)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


async def test_our_requestor_stores_to_pynetdicom_byte_by_byte() -> None:
    received: list[bytes] = []

    def stored(event: Any) -> int:
        received.append(event.request.DataSet.getvalue())
        return 0

    sent = ct()
    with pynetdicom_scp(EVT_C_STORE=stored) as port:
        ours = await connect(
            "127.0.0.1", port, [CT], called_ae_title="PYNETDICOM", calling_ae_title="TEST"
        )
        assert (await store(ours, sent)).status == 0
        await ours.release()
        assert not ours.is_open
    assert received == [sent.data_set]


async def test_our_requestor_is_told_of_a_rejection_that_it_is_for_good() -> None:  # A2
    with pynetdicom_scp() as port:
        with pytest.raises(AssociationRejectedError, match="called AE title") as caught:
            await connect("127.0.0.1", port, [CT], called_ae_title="X", calling_ae_title="TEST")
        assert not caught.value.is_transient


async def test_our_requestor_is_told_of_an_abort_in_the_middle() -> None:
    def stored(event: Any) -> int:
        event.assoc.abort()
        return 0

    with pynetdicom_scp(EVT_C_STORE=stored) as port:
        ours = await connect(
            "127.0.0.1", port, [CT], called_ae_title="PYNETDICOM", calling_ae_title="TEST"
        )
        with pytest.raises(AssociationAbortedError, match="aborted by the service user"):
            await store(ours, ct())
        assert not ours.is_open


async def test_our_requestor_asks_for_each_syntax_separately() -> None:
    with pynetdicom_scp() as port:
        ours = await connect(
            "127.0.0.1",
            port,
            [Proposal(CT_IMAGE_STORAGE, (EXPLICIT, "1.2.840.10008.1.2"), separate=True)],
            called_ae_title="PYNETDICOM",
            calling_ae_title="TEST",
            settings=ConnectSettings(max_pdu_length=4096),
        )
        syntaxes = ours.agreement.transfer_syntaxes_for(CT_IMAGE_STORAGE)
        assert syntaxes == [EXPLICIT, "1.2.840.10008.1.2"]
        await ours.release()

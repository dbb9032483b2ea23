"""How fast the DIMSE codec is alone: no sockets, no files, one core.

    python benchmarks/dimse_codec.py

An association receives instances of 530 KB (a CT slice) by C-STORE, and sends them, through
`UpperLayer` and `MessageReader` or `MessageWriter`, at 16 KiB and 128 KiB PDUs, read in pieces of
256 KiB as from a socket. Reported: instances, PDUs and MB a second, and microseconds for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from imaging_ingestion.dimse.acceptor import Acceptance, AcceptorPolicy, ContextPolicy, negotiate
from imaging_ingestion.dimse.command import (
    Command,
    CStoreRequest,
    CStoreResponse,
    RefusedRequest,
    respond,
)
from imaging_ingestion.dimse.event import AssociateRequested
from imaging_ingestion.dimse.message import (
    CommandReceived,
    DataSetFragment,
    MessageReader,
    MessageWriter,
)
from imaging_ingestion.dimse.p_data import PDataReceived
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.dimse.upper_layer import Role, UpperLayer

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
INSTANCE = 530_000  # bytes
READ = 1 << 18  # bytes from the "socket" at a time
CHUNK = 1 << 18  # bytes from the "file" at a time
SECONDS = 2.0  # for each figure


def associate(max_pdu_length: int) -> tuple[UpperLayer, UpperLayer]:
    """A requestor and an acceptor that takes PDUs of that length."""
    requestor, acceptor = UpperLayer(Role.REQUESTOR), UpperLayer(Role.ACCEPTOR)
    request = build_request(
        [Proposal(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))],
        called_ae_title="INGESTION",
        calling_ae_title="BENCHMARK",
    )
    requestor.send(request)
    acceptor.connection_made()
    (event,) = acceptor.receive_data(b"".join(requestor.connection_made()))
    assert isinstance(event, AssociateRequested)
    policy = AcceptorPolicy(
        {CT_IMAGE_STORAGE: ContextPolicy((EXPLICIT_VR_LITTLE_ENDIAN,))},
        max_pdu_length=max_pdu_length,
    )
    answer = negotiate(event.request, policy)
    assert isinstance(answer, Acceptance)
    requestor.receive_data(b"".join(acceptor.send(answer.accept)))
    return requestor, acceptor


def message(max_pdu_length: int) -> bytes:
    """One C-STORE-RQ with its data set, on the wire."""
    writer = MessageWriter(max_pdu_length)
    buffers = writer.command(1, store(1), has_data_set=True).buffers
    buffers += writer.data_set(bytes(INSTANCE), is_last=True).buffers
    return b"".join(buffers)


def store(message_id: int) -> CStoreRequest:
    """The command."""
    return CStoreRequest(
        affected_sop_class_uid=CT_IMAGE_STORAGE,
        affected_sop_instance_uid="1.2.826.0.1.3680043.8.498.12345678901234567890",
        message_id=message_id,
    )


def receiving(max_pdu_length: int) -> tuple[Callable[[], None], int]:
    """Receives one instance and answers it; and how many PDUs that is."""
    _, layer = associate(max_pdu_length)
    reader, writer = MessageReader({1}), MessageWriter(layer.peer_max_pdu_length)
    wire = memoryview(message(max_pdu_length))
    reads = [wire[start : start + READ] for start in range(0, len(wire), READ)]

    def once() -> None:
        size = 0
        request: Command | RefusedRequest | None = None
        for data in reads:
            for event in layer.receive_data(data):
                assert isinstance(event, PDataReceived)
                part = reader.receive(event)
                if type(part) is DataSetFragment:
                    size += len(part.data)
                    if part.is_last:
                        assert isinstance(request, CStoreRequest)
                        layer.send(writer.command(1, respond(request, 0)))
                elif type(part) is CommandReceived:
                    request = part.command
        assert size == INSTANCE

    return once, 1 + -(-INSTANCE // (max_pdu_length - 6))


def sending(max_pdu_length: int) -> tuple[Callable[[], None], int]:
    """Sends one instance and reads the answer; and how many PDUs that is."""
    layer, _ = associate(max_pdu_length)
    reader, writer = MessageReader({1}), MessageWriter(layer.peer_max_pdu_length)
    data_set = memoryview(bytes(INSTANCE))
    chunks = [data_set[start : start + CHUNK] for start in range(0, INSTANCE, CHUNK)]
    answer = b"".join(MessageWriter(0).command(1, respond(store(1), 0)).buffers)

    def once() -> None:
        layer.send(writer.command(1, store(1), has_data_set=True))
        for number, chunk in enumerate(chunks, 1):
            layer.send(writer.data_set(chunk, is_last=number == len(chunks)))
        for event in layer.receive_data(answer):
            assert isinstance(event, PDataReceived)
            part = reader.receive(event)
            assert isinstance(part, CommandReceived)
            assert isinstance(part.command, CStoreResponse)

    return once, 1 + sum(-(-len(chunk) // (max_pdu_length - 6)) for chunk in chunks)


def measure(name: str, once: Callable[[], None], pdus: int) -> None:
    """Run for a while and print the figures."""
    once()
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        for _ in range(20):
            once()
        count += 20
    each = elapsed / count
    print(
        f"{name:30} {1 / each:9,.0f} instances/s {pdus / each:11,.0f} PDUs/s "
        f"{INSTANCE / each / 1e6:9,.0f} MB/s {each * 1e6:7.1f} us an instance "
        f"{each * 1e6 / pdus:6.2f} us a PDU"
    )


def main() -> None:
    """All figures."""
    for length in (16384, 131072):
        measure(f"receive, {length // 1024} KiB PDUs", *receiving(length))
        measure(f"send, {length // 1024} KiB PDUs", *sending(length))


if __name__ == "__main__":
    main()

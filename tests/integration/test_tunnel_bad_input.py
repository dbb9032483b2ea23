"""Hostile peers on TCP and hostile messages on the subjects: a precise answer, and life goes on."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats_servers import NatsServer
from nats_servers import nats as nats_fixture
from tunnel_proxies import Behind, Pair, eventually, proxies
from tunnel_store import Digests, digests, sender, store

from imaging_ingestion.association.error import AssociationAbortedError, AssociationError
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateAccept,
    AssociateReject,
    decode_pdu,
    encode_pdu,
)
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.tunnel.frame import Frame, Kind, Reason, decode, encode, introduce

nats = nats_fixture

KIB = 1024
HEADER = struct.Struct(">BxL")
REQUEST = encode_pdu(
    build_request(
        [Proposal("1.2.840.10008.5.1.4.1.1.2", ("1.2.840.10008.1.2.1",))],
        called_ae_title="TARGET",
        calling_ae_title="RAW",
    )
)


@pytest.fixture
async def target() -> AsyncIterator[tuple[Digests, int]]:
    async with digests() as found:
        yield found


@pytest.fixture
async def pair(nats: NatsServer, target: tuple[Digests, int]) -> AsyncIterator[Pair]:
    async with proxies(nats.address, Behind(target[1])) as found:
        yield found


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    found = Client()
    await found.connect(nats.address)
    try:
        yield found
    finally:
        await found.close()


async def goes_on(pair: Pair) -> None:
    """The tunnel still works."""
    async with sender(pair.near.port) as association:
        assert await store(association, 999, KIB) == 0


async def answers(port: int, *pieces: bytes) -> list[object]:
    """The PDUs that are answered until the connection is closed, but for P-DATA-TF.

    The first piece is sent at once, the next ones once the association is accepted.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found: list[object] = []
    try:
        async with asyncio.timeout(30):
            writer.write(pieces[0])
            while True:
                head = await reader.readexactly(HEADER.size)
                kind, length = HEADER.unpack(head)
                body = await reader.readexactly(length)
                if kind != 4:
                    found.append(decode_pdu(head + body))
                if kind == 2:
                    writer.write(b"".join(pieces[1:]))
                if kind in (3, 7):
                    return found
    except asyncio.IncompleteReadError:
        return found
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Abort(2, 1)),
        (b"\x16\x03\x01\x02\x00\x01\x00", Abort(2, 1)),
        (HEADER.pack(4, 100) + bytes(100), Abort(2, 2)),
        (HEADER.pack(5, 4) + bytes(4), Abort(2, 2)),
        (HEADER.pack(1, 0xFFFFFFFF) + bytes(100), Abort(2, 6)),
        (HEADER.pack(1, 3) + bytes(3), Abort(2, 6)),
        (HEADER.pack(1, 68) + bytes(68)[:-1] + b"\x01", None),
        (HEADER.pack(1, 92) + REQUEST[6:74] + b"\x20\x00\xff\xff" + bytes(20), Abort(2, 6)),
    ],
)
async def test_what_is_no_request_is_aborted_as_the_standard_says(
    pair: Pair, said: bytes, answer: Abort | None
) -> None:
    found = await answers(pair.near.port, said)
    if answer is not None:
        assert found == [answer]
    else:
        assert len(found) <= 1  # what the target or the proxy makes of it
    await goes_on(pair)
    await eventually(lambda: pair.near.proxy.associations == 0)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\x99garbage", Abort(2, 1)),
        (REQUEST, Abort(2, 2)),
        (HEADER.pack(4, 2) + bytes(2), Abort(2, 6)),
        (HEADER.pack(5, 5) + bytes(5), Abort(2, 6)),
    ],
)
async def test_what_is_no_pdu_on_an_association_aborts_it_on_both_sides(
    pair: Pair, target: tuple[Digests, int], said: bytes, answer: Abort
) -> None:
    accepted, *rest = await answers(pair.near.port, REQUEST, said)
    assert isinstance(accepted, AssociateAccept)
    assert rest == [answer]
    await eventually(lambda: pair.far.proxy.associations == 0)
    await goes_on(pair)


async def test_a_crowd_that_says_nothing_shuts_nobody_out(nats: NatsServer) -> None:
    async with digests() as (_, port), proxies(nats.address, Behind(port)) as pair:
        crowd = [await asyncio.open_connection("127.0.0.1", pair.near.port) for _ in range(250)]
        await goes_on(pair)
        for _, writer in crowd:
            writer.close()
        await eventually(lambda: pair.near.proxy.associations == 0)


async def test_a_title_that_is_not_the_proxys_is_rejected(nats: NatsServer) -> None:
    async with (
        digests() as (_, port),
        proxies(nats.address, Behind(port), near_values={"DIMSE_AE": "PROJECTED"}) as pair,
    ):
        assert await answers(pair.near.port, REQUEST) == [AssociateReject(1, 1, 7)]


async def test_a_target_that_is_not_there_rejects_for_now(nats: NatsServer, unused: int) -> None:
    async with proxies(nats.address, Behind(unused)) as pair:
        assert await answers(pair.near.port, REQUEST) == [AssociateReject(2, 3, 1)]


@pytest.fixture
def unused() -> int:
    from platform_process import free_port

    return free_port()


async def test_too_many_associations_are_rejected_for_now(nats: NatsServer) -> None:
    async with (
        digests() as (_, port),
        proxies(nats.address, Behind(port), near_values={"DIMSE_MAX_ASSOCIATIONS": "1"}) as pair,
        sender(pair.near.port),
    ):
        assert await answers(pair.near.port, REQUEST) == [AssociateReject(2, 3, 2)]
        with pytest.raises(AssociationError):
            async with sender(pair.near.port):
                pass


# ---- on the subjects


@pytest.mark.parametrize("subject", ["open", "gone", "at"])
async def test_messages_that_are_not_ours_are_counted_and_change_nothing(
    pair: Pair, client: Client, subject: str
) -> None:
    tunnel = pair.far.proxy.tunnel
    place = f"{pair.root}.B.{subject}"
    if subject == "at":
        place = f"{pair.root}.B.at.{tunnel.process_id.hex()}.{secrets.token_hex(8)}"
    other_kind = Kind.DATA if subject != "at" else Kind.OPEN
    junk = [
        b"",
        b"hello",
        secrets.token_bytes(200),
        b"dT\x01" + bytes(20),
        encode(Frame(other_kind, secrets.token_bytes(16))),
        encode(Frame(Kind.GONE, bytes(16), payload=b"x" * 1000)),
        encode(Frame(Kind.OPEN, secrets.token_bytes(8) + bytes(8), payload=b"short")),
    ]
    async with sender(pair.near.port) as association:
        assert await store(association, 1, KIB) == 0
        for message in junk:
            await client.publish(place, message)
        await client.publish(f"{pair.root}.B.at.{tunnel.process_id.hex()}.zz", b"odd subject")
        await client.flush()

        def counted() -> float:
            words = ("not_a_frame", "malformed", "unknown_stream")
            return sum(pair.far.metric("bad_frames_total", why=word) for word in words)

        await eventually(lambda: counted() >= len(junk) + 1)
        assert await store(association, 2, KIB) == 0


async def test_another_version_of_the_protocol_is_refused_in_words_it_understands(
    pair: Pair, client: Client
) -> None:
    half, process = secrets.token_bytes(8), secrets.token_bytes(16)
    reply = f"{pair.root}.A.at.{process.hex()}.{half.hex()}"
    answers = await client.subscribe(reply)
    frame = encode(Frame(Kind.OPEN, half + bytes(8), payload=introduce(process, "future")))
    await client.publish(f"{pair.root}.B.open", frame[:2] + b"\x02" + frame[3:], reply=reply)
    answer = decode((await answers.next_msg(timeout=10)).data)
    assert answer.kind is Kind.REFUSE
    assert answer.stream_id[:8] == half
    assert Reason(answer.payload[0]) is Reason.VERSION
    assert pair.far.metric("bad_frames_total", why="version") == 1
    await goes_on(pair)


async def test_answers_go_to_the_other_side_only(pair: Pair, client: Client) -> None:
    elsewhere = f"{pair.root}.elsewhere"
    heard = await client.subscribe(elsewhere)
    tunnel = pair.far.proxy.tunnel
    half = secrets.token_bytes(8)
    place = f"{pair.root}.B.at.{tunnel.process_id.hex()}.{half.hex()}"
    await client.publish(place, encode(Frame(Kind.DATA, half + bytes(8))), reply=elsewhere)
    await client.flush()
    await eventually(lambda: pair.far.metric("bad_frames_total", why="unknown_stream") == 1)
    await goes_on(pair)
    assert heard.pending_msgs == 0


async def test_frames_of_a_stream_that_is_not_are_answered_by_an_abort(
    pair: Pair, client: Client
) -> None:
    half, process = secrets.token_bytes(8), secrets.token_bytes(16)
    reply = f"{pair.root}.A.at.{process.hex()}.{half.hex()}"
    heard = await client.subscribe(reply)
    place = f"{pair.root}.B.at.{pair.far.proxy.tunnel.process_id.hex()}.{half.hex()}"
    frame = Frame(Kind.DATA, half + b"12345678", payload=b"data")
    await client.publish(place, encode(frame), reply=reply)
    answer = decode((await heard.next_msg(timeout=10)).data)
    assert answer.kind is Kind.ABORT
    assert Reason(answer.payload[0]) is Reason.UNKNOWN_STREAM


async def overheard(pair: Pair, client: Client, number: int) -> list[tuple[str, bytes, str]]:
    """All messages of one association."""
    found: list[tuple[str, bytes, str]] = []

    async def hear(message: object) -> None:
        found.append((message.subject, message.data, message.reply))  # type: ignore[attr-defined]

    subscription = await client.subscribe(f"{pair.root}.>", cb=hear)
    await client.flush()
    async with sender(pair.near.port) as association:
        assert await store(association, number, 600 * KIB) == 0
    await client.flush()
    await eventually(lambda: any(decode(data).kind is Kind.FIN for _, data, _ in found))
    await subscription.unsubscribe()
    return found


async def test_a_replayed_association_does_nothing(
    pair: Pair, target: tuple[Digests, int], client: Client
) -> None:
    messages = await overheard(pair, client, 1)
    for _ in range(2):
        for subject, data, reply in messages:
            await client.publish(subject, data, reply=reply)
    await client.flush()
    await goes_on(pair)
    assert set(target[0].times.values()) == {1}
    assert len(target[0].associations) == 2


async def test_frames_that_are_replayed_in_the_middle_change_nothing(
    pair: Pair, target: tuple[Digests, int], client: Client
) -> None:
    async def again(message: object) -> None:
        if not replayed and message.data:  # type: ignore[attr-defined]
            replayed.append(1)
        if len(seen) < 400 and message.data not in seen:  # type: ignore[attr-defined]
            seen.append(message.data)  # type: ignore[attr-defined]
            await client.publish(message.subject, message.data, reply=message.reply)  # type: ignore[attr-defined]

    seen: list[bytes] = []
    replayed: list[int] = []
    await client.subscribe(f"{pair.root}.*.at.>", cb=again)
    await client.flush()
    async with sender(pair.near.port) as association:
        for number in range(20):
            assert await store(association, number, 600 * KIB) == 0
    target[0].assert_all(range(20), 600 * KIB)


@pytest.mark.parametrize("harm", ["overrun", "never_sent", "beyond_the_end"])
async def test_a_stream_whose_peer_breaks_the_protocol_is_aborted_and_no_other(
    pair: Pair, client: Client, harm: str
) -> None:
    subjects: list[str] = []
    streams: list[bytes] = []

    async def hear(message: object) -> None:
        if message.subject.startswith(f"{pair.root}.B.at"):  # type: ignore[attr-defined]
            subjects.append(message.subject)  # type: ignore[attr-defined]
            streams.append(decode(message.data).stream_id)  # type: ignore[attr-defined]

    await client.subscribe(f"{pair.root}.>", cb=hear)
    await client.flush()
    async with sender(pair.near.port) as other, sender(pair.near.port) as association:
        assert await store(other, 1, KIB) == 0
        await eventually(lambda: subjects)
        seen = len(subjects)
        assert await store(association, 2, KIB) == 0
        await eventually(lambda: len(subjects) > seen)
        subject, stream = subjects[-1], streams[-1]
        bad = {
            "overrun": Frame(Kind.DATA, stream, offset=1 << 40, payload=b"x", limit=1 << 30),
            "never_sent": Frame(Kind.ACK, stream, ack=1 << 40),
            "beyond_the_end": Frame(Kind.FIN, stream, offset=0),
        }[harm]
        await client.publish(subject, encode(bad))
        await client.flush()
        await association.closed()
        assert isinstance(association.end, AssociationAbortedError)
        assert await store(other, 4, KIB) == 0
    assert pair.far.metric("streams_failed_total", why="protocol") == 1

"""Who may associate, how many, who they say they are, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from dimse_site import (
    CT,
    CT_IMAGE_STORAGE,
    ECHO,
    EXPLICIT,
    IMPLICIT,
    DimseSite,
    Sent,
    ct,
    dimse_site,
    policy,
    store,
)
from loops import BOTH_LOOPS
from raw_peer import RawPeer, identified, message, raw_peer, store_request
from stow_site import until

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.config import StorageContexts
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.error import (
    AssociationAbortedError,
    AssociationRejectedError,
    AssociationReleasedError,
    NotConnectedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.identity import TokenSettings, UserIdentities
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.association.listener import Listener, ListenerSettings
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy
from imaging_ingestion.dimse.command import CEchoRequest, CEchoResponse, respond
from imaging_ingestion.dimse.error import LocalProtocolError
from imaging_ingestion.dimse.pdu import Abort, AssociateAccept, AssociateReject
from imaging_ingestion.dimse.pdu_items import OperationsWindow, UserIdentity
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.dimse.sop_class import VERIFICATION

pytestmark = BOTH_LOOPS

SECRET = "a secret that is long enough for an HMAC with SHA-256"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[DimseSite]:
    async with dimse_site(tmp_path / "site") as running:
        yield running


# ---- titles and contexts


async def test_titles_are_compared_without_case_and_padding(tmp_path: Path) -> None:  # A1, A23
    accepting = policy(calling_ae_titles=frozenset({"SCANNER"}))
    async with dimse_site(tmp_path / "site", acceptor=accepting) as site:
        for called, calling, is_accepted in (
            ("INGESTION", "SCANNER", True),
            ("ingestion", "Scanner", True),
            ("INGESTION2", "SCANNER", False),
            ("INGESTION", "OTHER", False),
        ):
            async with raw_peer(site.port) as peer:
                request = build_request([ECHO], called_ae_title=called, calling_ae_title=calling)
                answer = await peer.ask(request)
                assert isinstance(answer, AssociateAccept) is is_accepted, (called, calling)


@pytest.mark.parametrize(
    ("called", "calling", "reason"), [("X", "SCANNER", 7), ("INGESTION", "X", 3)]
)
async def test_titles_that_are_not_ours_are_rejected_for_good(
    tmp_path: Path, called: str, calling: str, reason: int
) -> None:  # A2
    accepting = policy(calling_ae_titles=frozenset({"SCANNER"}))
    async with (
        dimse_site(tmp_path / "site", acceptor=accepting) as site,
        raw_peer(site.port) as peer,
    ):
        request = build_request([ECHO], called_ae_title=called, calling_ae_title=calling)
        assert await peer.ask(request) == AssociateReject(1, 1, reason)


async def test_private_storage_classes_are_stored(site: DimseSite) -> None:  # C7
    private = "1.2.826.0.1.3680043.8.498.99.1"
    sent = ct()
    data = sent.data_set.replace(
        b"\x08\0\x16\0UI\x1a\0" + CT_IMAGE_STORAGE.encode() + b"\0",
        b"\x08\0\x16\0UI\x1e\0" + private.encode(),
    )
    assert data != sent.data_set
    private_sent = Sent(private, sent.sop_instance, EXPLICIT, data)
    ours = await site.call(Proposal(private, (EXPLICIT,)))
    assert (await store(ours, private_sent)).status == 0
    await ours.release()
    assert await site.data_set_of(sent.sop_instance) == data


async def test_a_site_may_restrict_classes_and_syntaxes(tmp_path: Path) -> None:
    contexts = StorageContexts(frozenset({CT_IMAGE_STORAGE}), (IMPLICIT,))
    async with dimse_site(tmp_path / "site", acceptor=policy(contexts)) as site:
        ours = await site.call(
            Proposal(CT_IMAGE_STORAGE, (EXPLICIT, IMPLICIT)),
            Proposal("1.2.840.10008.5.1.4.1.1.4", (IMPLICIT,)),
            Proposal("1.2.826.0.1.3680043.8.498.99.1", (IMPLICIT,)),
        )
        (context,) = ours.agreement.contexts.values()
        assert (context.abstract_syntax, context.transfer_syntax) == (CT_IMAGE_STORAGE, IMPLICIT)
        await ours.release()


async def test_an_association_without_any_context_may_be_released(site: DimseSite) -> None:  # A6
    ours = await site.call(Proposal("1.2.840.10008.5.1.4.31", (IMPLICIT,)))
    assert not ours.agreement.contexts
    await ours.release()


async def test_several_operations_at_a_time_where_both_agree(tmp_path: Path) -> None:  # A10
    async with dimse_site(tmp_path / "site", acceptor=policy(operations=8)) as site:
        ours = await site.call(CT, settings=ConnectSettings(operations_window=OperationsWindow(4)))
        assert ours.agreement.max_operations_invoked == 4
        sent = [ct(number=number) for number in range(12)]
        answers = await asyncio.gather(*(store(ours, one) for one in sent))
        assert {answer.status for answer in answers} == {0}
        await ours.release()
        await site.site.assert_holds(*[one.sop_instance for one in sent])


async def test_sixteen_busy_associations_beside_five_hundred_idle_ones_lose_nothing(
    site: DimseSite,
) -> None:
    idle = [await site.call(CT) for _ in range(500)]

    async def send(worker: int) -> None:
        association = await site.call(CT)
        for number in range(5):
            assert (await store(association, ct(number=100 * worker + number))).status == 0
        await association.release()

    await asyncio.gather(*map(send, range(16)))
    assert all(association.is_open for association in idle)
    assert (await store(idle[0], ct(number=9000))).status == 0
    await asyncio.gather(*(association.release() for association in idle))
    numbers = [100 * worker + number for worker in range(16) for number in range(5)]
    await site.site.assert_holds(*[ct(number=n).sop_instance for n in [*numbers, 9000]])


# ---- identities


@asynccontextmanager
async def guarded(tmp_path: Path) -> AsyncIterator[DimseSite]:
    identities = UserIdentities(
        usernames=["alice"],
        passcodes={"bob": "builder"},
        tokens=TokenSettings(SECRET, ("HS256",)),
    )
    accepting = policy(kinds=identities.kinds)
    async with dimse_site(tmp_path / "site", acceptor=accepting, verify=identities) as site:
        yield site


def token(lifetime: float = 86_400) -> bytes:  # made at collection, hours before, perhaps
    return jwt.encode({"exp": time.time() + lifetime}, SECRET, "HS256").encode()


@pytest.mark.parametrize(
    ("identity", "is_accepted"),
    [
        (UserIdentity(1, b"alice"), True),
        (UserIdentity(1, b"mallory"), False),
        (UserIdentity(2, b"bob", b"builder"), True),
        (UserIdentity(2, b"bob", b"destroyer"), False),
        (UserIdentity(2, b"alice", b"builder"), False),
        (UserIdentity(3, b"a ticket"), False),
        (UserIdentity(4, b"an assertion"), False),
        (UserIdentity(5, token()), True),
        (UserIdentity(5, token(-3600)), False),
        (None, False),
    ],
)
async def test_user_identities_are_verified(
    tmp_path: Path, identity: UserIdentity | None, is_accepted: bool
) -> None:  # A14
    async with guarded(tmp_path) as site, raw_peer(site.port) as peer:
        if identity is None:
            request = build_request([ECHO], called_ae_title="INGESTION", calling_ae_title="RAW")
        else:
            request = identified(ECHO, replace(identity, positive_response_requested=True))
        answer = await peer.ask(request)
        if is_accepted:
            assert isinstance(answer, AssociateAccept)
            assert answer.user_information.user_identity_response == b""
        else:
            assert answer == AssociateReject(1, 2, 1)


async def test_storescus_user_and_password_are_verified(tmp_path: Path) -> None:  # A14
    async with guarded(tmp_path) as site:
        sent = ct()
        for password, is_right in (("destroyer", False), ("builder", True)):
            code, output = await site.storescu(sent, "-usr", "bob", "-pwd", password, "-rsp")
            assert (code == 0) is is_right, (code, output)
        await site.site.assert_holds(sent.sop_instance)


async def test_an_identity_that_is_not_judged_in_time_is_refused(tmp_path: Path) -> None:
    async def never(_identity: UserIdentity) -> object:
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        dimse_site(
            tmp_path / "site",
            acceptor=policy(kinds=frozenset({1})),
            verify=never,  # type: ignore[arg-type]
            settings=ListenerSettings(artim=0.5),
        ) as site,
        raw_peer(site.port) as peer,
    ):
        answer = await peer.ask(identified(ECHO, UserIdentity(1, b"alice")))
        assert answer == AssociateReject(1, 2, 1)


# ---- the end


async def test_what_is_being_stored_when_it_stops_is_finished(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site:
        ours = await site.call(CT)
        sent = ct()
        storing = asyncio.ensure_future(store(ours, sent))
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(site.listener.stop())
        assert (await storing).status == 0
        await ours.release()
        await stopping
        await site.site.assert_holds(sent.sop_instance)


async def test_a_sender_goes_on_while_it_stops_and_others_are_rejected(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site:
        ours = await site.call(CT)
        assert (await store(ours, ct(number=0))).status == 0
        stopping = asyncio.ensure_future(site.listener.stop())
        await asyncio.sleep(0)
        with pytest.raises(AssociationRejectedError, match="congestion") as caught:
            await site.call(CT)
        assert caught.value.is_transient
        for number in range(1, 10):
            assert (await store(ours, ct(number=number))).status == 0
        await ours.release()
        await stopping
        await site.site.assert_holds(*[ct(number=n).sop_instance for n in range(10)])
        with pytest.raises(NotConnectedError):
            await site.call(CT)


async def test_idle_associations_are_aborted_when_it_stops(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site, raw_peer(site.port) as peer:
        await peer.associate(CT)
        waiting = await asyncio.open_connection("127.0.0.1", site.port)
        stopping = asyncio.ensure_future(site.listener.stop())
        assert await peer.pdu() == Abort(0, 0)
        peer.writer.close()
        await stopping
        assert await waiting[0].read() == b""
        waiting[1].close()


async def test_a_sender_without_end_is_aborted_after_the_grace(tmp_path: Path) -> None:
    settings = ListenerSettings(grace=1.0)
    async with dimse_site(tmp_path / "site", settings=settings) as site:
        ours = await site.call(CT)

        async def send_for_ever() -> None:
            number = 0
            while True:
                number += 1
                await store(ours, ct(number=number))

        sending = asyncio.ensure_future(send_for_ever())
        await asyncio.sleep(0.1)
        await site.listener.stop()
        with pytest.raises(AssociationAbortedError):
            await sending
        await site.site.service.intake.close()
        await site.site.assert_holds(*(await site.site.recorded()))


async def test_it_may_stop_twice_and_without_ever_being_called(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site:
        await site.listener.stop()
        await site.listener.stop()


async def test_a_port_in_use_is_told(site: DimseSite) -> None:
    with pytest.raises(OSError, match="in use"):
        await site.listener.listen("127.0.0.1", site.port)


# ---- services that misbehave, and our requestor


class Misbehaving:
    """Does what a test wants."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.done = asyncio.Event()

    async def perform(self, request: IncomingRequest) -> None:
        try:
            if self.how == "raises":
                raise RuntimeError("patient's name in here")
            if self.how == "waits":
                await asyncio.Event().wait()
            if self.how == "answers twice":
                await request.respond(respond(request.command, 0))
                await request.respond(respond(request.command, 0))
            if self.how == "cannot be encoded":
                answer = respond(request.command, 0)
                await request.respond(replace_status(answer))
        finally:
            self.done.set()


def replace_status(answer: object) -> CEchoResponse:
    assert isinstance(answer, CEchoResponse)
    return CEchoResponse(
        message_id_being_responded_to=answer.message_id_being_responded_to,
        status=0,
        affected_sop_class_uid="1." * 40 + "1",
    )


@asynccontextmanager
async def serving(
    service: Misbehaving, settings: ConnectSettings | None = None
) -> AsyncIterator[Association]:
    """An association with a listener that has that service."""
    listener = Listener(
        AcceptorPolicy({VERIFICATION: ContextPolicy((IMPLICIT,))}), {VERIFICATION: service}
    )
    port = await listener.listen("127.0.0.1", 0)
    try:
        yield await connect(
            "127.0.0.1", port, [ECHO], called_ae_title="A", calling_ae_title="B", settings=settings
        )
    finally:
        await listener.stop()


async def echo(association: Association) -> int:
    request = CEchoRequest(message_id=0, affected_sop_class_uid=VERIFICATION)
    async with aclosing(association.request(1, request)) as answers:
        (answer,) = [answer async for answer in answers]
    return answer.response.status


@pytest.mark.parametrize("how", ["raises", "says nothing", "cannot be encoded"])
async def test_a_service_that_fails_is_a_processing_failure_and_the_association_goes_on(
    how: str,
) -> None:
    async with serving(Misbehaving(how)) as association:
        assert await echo(association) == 0x0110
        assert await echo(association) == 0x0110
        await association.release()


async def test_a_service_that_answers_twice_is_told_and_the_first_answer_counts() -> None:
    async with serving(Misbehaving("answers twice")) as association:
        assert await echo(association) == 0
        assert await echo(association) == 0
        await association.release()


async def test_a_service_is_cancelled_when_its_association_ends() -> None:
    service = Misbehaving("waits")
    async with serving(service) as association:
        asking = asyncio.ensure_future(echo(association))
        await until(lambda: len(association._invoking) == 1, "it is asked")
        await asyncio.sleep(0.05)
        await association.abort()
        async with asyncio.timeout(30):
            await service.done.wait()
        with pytest.raises(AssociationAbortedError, match="on our side"):
            await asking


async def test_a_peer_that_does_not_answer_is_given_up() -> None:
    impatient = ConnectSettings(limits=AssociationLimits(response=0.3))
    service = Misbehaving("waits")
    async with serving(service, impatient) as association:
        with pytest.raises(PeerTimeoutError, match="did not answer"):
            await echo(association)
        assert not association.is_open
        async with asyncio.timeout(30):
            await service.done.wait()


async def test_a_peer_that_does_not_agree_to_a_release_is_aborted() -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        await answer_association(peer)
        await peer.read()
        assert isinstance(await peer.pdu(), Abort)
        writer.close()

    async with listening(ignore) as port:
        ours = await connect("127.0.0.1", port, [ECHO], called_ae_title="A", calling_ae_title="B")
        with pytest.raises(PeerTimeoutError, match="release"):
            await ours.release(timeout=0.3)


async def answer_association(peer: RawPeer) -> None:
    """Accept the first context, whatever it is."""
    from imaging_ingestion.dimse.pdu import AssociateRequest, encode_pdu
    from imaging_ingestion.dimse.pdu_items import PresentationContextResult, UserInformation

    request = await peer.pdu()
    assert isinstance(request, AssociateRequest)
    (first, *_) = request.presentation_contexts
    await peer.send(
        encode_pdu(
            AssociateAccept(
                request.called_ae_title,
                request.calling_ae_title,
                (PresentationContextResult(first.context_id, 0, first.transfer_syntaxes[0]),),
                UserInformation(16384, "1.2.3"),
            )
        )
    )


@asynccontextmanager
async def listening(
    serve: object,
) -> AsyncIterator[int]:
    """A peer of the test's own; what it fails by is raised here."""
    failures: list[BaseException] = []
    tasks: list[asyncio.Task[None]] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await serve(reader, writer)  # type: ignore[operator]
        except (AssertionError, OSError, EOFError, TimeoutError) as error:
            failures.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        if tasks:
            await asyncio.wait(tasks, timeout=30)
    finally:
        server.close()
    assert not failures, failures


async def test_a_peer_that_is_not_there_is_told() -> None:
    with pytest.raises(NotConnectedError, match="refused"):
        await connect("127.0.0.1", 1, [ECHO], called_ae_title="A", calling_ae_title="B")


async def test_a_peer_that_accepts_nothing_and_says_nothing_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await RawPeer(reader, writer).pdu()
        assert await reader.read() != b"?"

    async with listening(silent) as port:
        with pytest.raises(PeerTimeoutError, match="did not answer the request"):
            await connect(
                "127.0.0.1", port, [ECHO], called_ae_title="A", calling_ae_title="B",
                settings=ConnectSettings(artim=0.3),
            )  # fmt: skip


async def test_a_peer_that_closes_instead_of_answering_is_told() -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await RawPeer(reader, writer).pdu()

    async with listening(closing) as port:
        with pytest.raises(AssociationAbortedError, match="connection was lost"):
            await connect("127.0.0.1", port, [ECHO], called_ae_title="A", calling_ae_title="B")


async def test_a_peer_that_speaks_no_dicom_is_told() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        await peer.pdu()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert await peer.aborted() == (2, 1)

    async with listening(http) as port:
        with pytest.raises(AssociationAbortedError, match="broke the protocol"):
            await connect("127.0.0.1", port, [ECHO], called_ae_title="A", calling_ae_title="B")


async def test_we_ask_for_nothing_on_a_context_that_was_not_accepted(site: DimseSite) -> None:
    ours = await site.call(ECHO)
    request = store_request(CT_IMAGE_STORAGE, "1.2.3")
    with pytest.raises(LocalProtocolError):
        await anext(ours.request(3, request, b"ab"))
    assert await echo(ours) == 0
    await ours.release()


async def test_a_data_set_that_fails_while_we_send_it_ends_the_association(
    site: DimseSite,
) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield ct().data_set[:20_000]
        raise OSError("the disk is gone")

    ours = await site.call(CT)
    with pytest.raises(OSError, match="the disk is gone"):
        await anext(ours.request(1, store_request(CT_IMAGE_STORAGE, "1.2.3"), failing()))
    assert not ours.is_open
    await until(lambda: site.listener.associations == 0, "the association is forgotten")
    await site.site.assert_holds()


async def test_a_caller_that_is_cancelled_before_its_turn_takes_no_turn(site: DimseSite) -> None:
    ours = await site.call(CT)
    first = asyncio.ensure_future(store(ours, ct(number=1)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(store(ours, ct(number=2)))
    await asyncio.sleep(0)
    second.cancel()
    assert (await first).status == 0
    assert (await store(ours, ct(number=3))).status == 0
    await ours.release()
    await site.site.assert_holds(ct(number=1).sop_instance, ct(number=3).sop_instance)


async def test_everything_waiting_gets_the_same_error_when_it_ends(site: DimseSite) -> None:
    ours = await site.call(CT)
    waiting = [asyncio.ensure_future(store(ours, ct(number=n))) for n in range(5)]
    await asyncio.sleep(0)
    await ours.abort()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, AssociationAbortedError) for result in results)
    with pytest.raises(AssociationAbortedError):
        await store(ours, ct())


async def test_after_a_release_nothing_can_be_asked(site: DimseSite) -> None:
    ours = await site.call(CT)
    await ours.release()
    await ours.release()
    with pytest.raises(AssociationReleasedError):
        await store(ours, ct())


async def test_requests_in_one_segment_are_answered_one_by_one(site: DimseSite) -> None:
    async with raw_peer(site.port) as peer:
        await peer.associate(CT)
        sent = [ct(number=number) for number in range(6)]
        await peer.send(
            b"".join(
                message(1, store_request(CT_IMAGE_STORAGE, one.sop_instance, n + 1), one.data_set)
                for n, one in enumerate(sent)
            )
        )
        answers = [await peer.answer() for _ in sent]
        assert {answer.message_id_being_responded_to for answer in answers} == set(range(1, 7))
        assert {answer.status for answer in answers} == {0}
        await peer.release()
    await site.site.assert_holds(*[one.sop_instance for one in sent])

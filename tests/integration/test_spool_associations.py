"""What else a peer asks for on an association goes to the target, if it can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats_servers import NatsServer, nats
from spool_proxies import CT, EXPLICIT, Made, is_empty, made, scanner, send, send_all, spooling
from storage_peers import Collector
from tunnel_proxies import Behind, eventually, new_root, proxies, running_proxy

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.performing import Services
from imaging_ingestion.association.services.echo import EchoService
from imaging_ingestion.dimse.acceptor import AcceptorPolicy, ContextPolicy, IdentityVerdict
from imaging_ingestion.dimse.command import (
    CEchoRequest,
    CFindRequest,
    CFindResponse,
    CGetRequest,
    CStoreRequest,
    NActionRequest,
    NEventReportRequest,
    respond,
)
from imaging_ingestion.dimse.pdu_items import UserIdentity
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import (
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    VERIFICATION,
)

__all__ = ["nats"]

MR = "1.2.840.10008.5.1.4.1.1.4"
ECHO = Proposal(VERIFICATION, (EXPLICIT,))
FIND = Proposal(STUDY_ROOT_FIND, (EXPLICIT,))
IDENTIFIER = Made(1, 1).data_set  # of any content: nobody here reads it


class Finder:
    """Answers queries until it is cancelled, or has answered 5 times."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self.endless = False

    async def perform(self, request: IncomingRequest) -> None:
        assert isinstance(request.command, CFindRequest)
        assert await request.read_data_set(1 << 20) == IDENTIFIER
        number = 0
        while not request.cancelled.is_set() and (self.endless or number < 5):
            number += 1
            await request.respond(respond(request.command, 0xFF00), b"\0" * (2 * number))
            await asyncio.sleep(0)
        self.is_cancelled = request.cancelled.is_set()
        await request.respond(respond(request.command, 0xFE00 if self.is_cancelled else 0))


class Getter:
    """Answers C-GET by one C-STORE on the same association."""

    async def perform(self, request: IncomingRequest) -> None:
        await request.read_data_set(1 << 20)
        association = request.association
        context = association.agreement.context_for(MR)
        assert context is not None
        store = CStoreRequest(
            message_id=0, affected_sop_class_uid=MR, affected_sop_instance_uid="1.2.3"
        )
        async for answer in association.request(context.context_id, store, IDENTIFIER):
            assert answer.response.status == 0
        await request.respond(respond(request.command, 0, number_of_completed_suboperations=1))


class Committer:
    """Takes a request for storage commitment, and reports on the same association."""

    async def perform(self, request: IncomingRequest) -> None:
        command = request.command
        assert isinstance(command, NActionRequest)
        await request.read_data_set(1 << 20)
        await request.respond(respond(command, 0))
        report = NEventReportRequest(
            message_id=0,
            affected_sop_class_uid=command.requested_sop_class_uid,
            affected_sop_instance_uid=command.requested_sop_instance_uid,
            event_type_id=1,
        )
        context_id = request.context.context_id
        async for answer in request.association.request(context_id, report, IDENTIFIER):
            assert answer.response.status == 0
            self.reported = True


@asynccontextmanager
async def archive(
    services: Mapping[str, object], collector: Collector | None = None, **policy: object
) -> AsyncIterator[tuple[int, Listener]]:
    """An entity that has services, and takes CT images."""
    contexts = {uid: ContextPolicy((EXPLICIT,)) for uid in services}
    contexts |= {
        CT: ContextPolicy((EXPLICIT,)),
        MR: ContextPolicy((EXPLICIT,), requestor_may_be_scp=True),
    }
    verify = policy.pop("verify", None)
    performers = Services({**services}, collector or Collector())  # type: ignore[dict-item]
    listener = Listener(
        AcceptorPolicy(contexts, **policy),  # type: ignore[arg-type]
        performers,
        verify=verify,  # type: ignore[arg-type]
    )
    try:
        yield await listener.listen("127.0.0.1", 0), listener
    finally:
        await listener.stop()


async def echo(association: Association) -> int:
    context = association.agreement.context_for(VERIFICATION)
    assert context is not None
    request = CEchoRequest(message_id=0, affected_sop_class_uid=VERIFICATION)
    async for answer in association.request(context.context_id, request):
        return answer.response.status
    raise AssertionError("there is one answer")


async def test_storage_is_taken_here_and_the_rest_goes_to_the_target(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    finder = Finder()
    services = {VERIFICATION: EchoService(), STUDY_ROOT_FIND: finder}
    async with (
        archive(services, target) as (port, listener),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
    ):
        async with scanner(pair.near.port, ECHO, FIND) as association:
            assert await echo(association) == 0
            assert (await send(association, Made(1, 1))).status == 0
            request = CFindRequest(message_id=0, affected_sop_class_uid=STUDY_ROOT_FIND)
            context = association.agreement.context_for(STUDY_ROOT_FIND)
            assert context is not None
            answers = [
                (answer.response.status, len(answer.data_set or b""))
                async for answer in association.request(context.context_id, request, IDENTIFIER)
            ]
            assert answers == [(0xFF00, 2 * number) for number in range(1, 6)] + [(0, 0)]
            assert listener.associations >= 1
        await eventually(lambda: is_empty(tmp_path))
        assert target.uids == [Made(1, 1).uid]
        await eventually(lambda: not pair.near.proxy.associations)


async def test_a_query_is_cancelled_at_the_target(nats: NatsServer, tmp_path: Path) -> None:
    finder = Finder()
    finder.endless = True
    async with (
        archive({STUDY_ROOT_FIND: finder}) as (port, _),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
        scanner(pair.near.port, FIND) as association,
    ):
        request = CFindRequest(message_id=0, affected_sop_class_uid=STUDY_ROOT_FIND)
        context = association.agreement.context_for(STUDY_ROOT_FIND)
        assert context is not None
        cancelled = asyncio.Event()
        statuses = []
        answers = association.request(context.context_id, request, IDENTIFIER, cancelled=cancelled)
        async for answer in answers:
            assert isinstance(answer.response, CFindResponse)
            statuses.append(answer.response.status)
            if len(statuses) == 3:
                cancelled.set()
        assert statuses[-1] == 0xFE00
        assert finder.is_cancelled


async def test_a_peer_gets_instances_on_an_association_on_which_it_stores_others(
    nats: NatsServer, tmp_path: Path
) -> None:
    peer = Collector()
    target = Collector()
    async with (
        archive({STUDY_ROOT_GET: Getter()}, target) as (port, _),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
    ):
        association = await connect(
            "127.0.0.1",
            pair.near.port,
            [
                Proposal(CT, (EXPLICIT,)),
                Proposal(STUDY_ROOT_GET, (EXPLICIT,)),
                Proposal(MR, (EXPLICIT,), as_scu=False, as_scp=True),
            ],
            called_ae_title="ARCHIVE",
            calling_ae_title="STATION",
            services={MR: peer},  # type: ignore[dict-item]
        )
        assert (await send(association, Made(1, 1))).status == 0
        context = association.agreement.context_for(STUDY_ROOT_GET)
        assert context is not None
        request = CGetRequest(message_id=0, affected_sop_class_uid=STUDY_ROOT_GET)
        answers = [
            answer.response
            async for answer in association.request(context.context_id, request, IDENTIFIER)
        ]
        assert [one.status for one in answers] == [0]
        assert [one.data_set for one in peer.arrived] == [IDENTIFIER]
        await association.release()
        await eventually(lambda: target.uids == [Made(1, 1).uid])


async def test_a_report_of_storage_commitment_comes_on_the_same_association(
    nats: NatsServer, tmp_path: Path
) -> None:
    reports: list[NEventReportRequest] = []

    class Reported:
        async def perform(self, request: IncomingRequest) -> None:
            assert isinstance(request.command, NEventReportRequest)
            assert await request.read_data_set(1 << 20) == IDENTIFIER
            reports.append(request.command)
            await request.respond(respond(request.command, 0))

    uid = STORAGE_COMMITMENT_PUSH_MODEL
    committer = Committer()
    async with (
        archive({uid: committer}) as (port, _),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
    ):
        association = await connect(
            "127.0.0.1",
            pair.near.port,
            [Proposal(CT, (EXPLICIT,)), Proposal(uid, (EXPLICIT,))],
            called_ae_title="ARCHIVE",
            calling_ae_title="SCANNER",
            services={uid: Reported()},
        )
        context = association.agreement.context_for(uid)
        assert context is not None
        request = NActionRequest(
            message_id=0,
            requested_sop_class_uid=uid,
            requested_sop_instance_uid=f"{uid}.1",
            action_type_id=1,
        )
        async for answer in association.request(context.context_id, request, IDENTIFIER):
            assert answer.response.status == 0
        await eventually(lambda: reports and getattr(committer, "reported", False))
        assert reports[0].event_type_id == 1
        await association.release()


async def test_without_the_other_side_storage_is_taken_and_the_rest_refused(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with running_proxy(nats.address, "A", new_root(), **spooling(tmp_path)) as near:
        near.proxy.tunnel._up_since -= 10.0  # it has been connected for a while
        async with scanner(near.port, ECHO, FIND) as association:
            assert len(association.agreement.contexts) == 1
            assert (await send(association, Made(1, 1))).status == 0
        with pytest.raises(AssociationError, match="temporary congestion"):
            async with scanner_of(near.port, ECHO):
                pass


async def test_a_target_that_rejects_loses_no_instance(nats: NatsServer, tmp_path: Path) -> None:
    async with (
        archive({VERIFICATION: EchoService()}, calling_ae_titles=frozenset({"OTHER"})) as (port, _),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
        scanner(pair.near.port, ECHO) as association,
    ):
        assert len(association.agreement.contexts) == 1
        assert (await send(association, Made(1, 1))).status == 0


async def test_the_other_side_is_lost_later_and_storage_goes_on(
    nats: NatsServer, tmp_path: Path
) -> None:
    target = Collector()
    async with archive({VERIFICATION: EchoService()}, target) as (port, _):
        root = new_root()
        async with running_proxy(nats.address, "A", root, **spooling(tmp_path)) as near:
            async with (
                running_proxy(nats.address, "B", root, **Behind(port).values()) as far,
                scanner(near.port, ECHO) as association,
            ):
                assert await echo(association) == 0
                await far.proxy.end("a crash")
                await eventually(lambda: near.proxy.tunnel.streams == 0)
                assert await echo(association) == 0x0110
                assert (await send(association, Made(1, 1))).status == 0
            async with running_proxy(nats.address, "B", root, **Behind(port).values()):
                await eventually(lambda: is_empty(tmp_path))
    assert target.uids == [Made(1, 1).uid]


async def test_an_association_without_storage_is_relayed_as_it_is(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with (
        archive({VERIFICATION: EchoService()}) as (port, listener),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
        scanner_of(pair.near.port, ECHO) as association,
    ):
        assert await echo(association) == 0
        assert listener.associations == 1


async def test_the_called_title_is_checked_where_it_is_set(
    nats: NatsServer, tmp_path: Path
) -> None:
    values = spooling(tmp_path, DIMSE_AE="PROJECTED")
    async with running_proxy(nats.address, "A", new_root(), **values) as near:
        await send_all(near.port, made(1, range(2)), called="PROJECTED")
        with pytest.raises(AssociationError, match="called AE title not recognized"):
            await send_all(near.port, made(1, range(2)), called="SOMEBODY")


async def test_the_target_judges_who_it_is_on_an_association_for_both(
    nats: NatsServer, tmp_path: Path
) -> None:
    seen: list[UserIdentity] = []

    async def verify(identity: UserIdentity) -> IdentityVerdict:
        seen.append(identity)
        return IdentityVerdict(accepted=True, response=b"welcome")

    kerberos = UserIdentity(3, b"ticket", positive_response_requested=True)
    async with (
        archive(
            {VERIFICATION: EchoService()}, verify=verify, verified_identity_kinds=frozenset({3})
        ) as (port, _),
        proxies(nats.address, Behind(port), near_values=spooling(tmp_path)) as pair,
    ):
        settings = ConnectSettings(user_identity=kerberos)
        async with scanner(pair.near.port, ECHO, settings=settings) as association:
            assert association.agreement.user_identity_response == b"welcome"
            assert (await send(association, Made(1, 1))).status == 0
        assert seen == [kerberos]
        with pytest.raises(AssociationError):
            async with scanner(pair.near.port, settings=settings):
                pass


@asynccontextmanager
async def scanner_of(port: int, *proposals: Proposal) -> AsyncIterator[Association]:
    """An association for just these."""
    association = await connect(
        "127.0.0.1", port, proposals, called_ae_title="ARCHIVE", calling_ae_title="SCANNER"
    )
    try:
        yield association
    finally:
        await association.release()

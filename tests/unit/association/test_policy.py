"""What a service offers is what it has, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dimse_site import CT, CT_IMAGE_STORAGE, ECHO, EXPLICIT, IMPLICIT, ct, data_set_of, store
from stow_site import stow_site

from imaging_ingestion.association.config import StorageContexts
from imaging_ingestion.association.connect import connect
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.listener import Listener
from imaging_ingestion.association.policy import IngestionServices, ingestion_policy
from imaging_ingestion.association.services.echo import EchoService
from imaging_ingestion.association.services.find import FindService
from imaging_ingestion.association.services.store import StoreService
from imaging_ingestion.dimse.acceptor import Acceptance, AcceptorPolicy, negotiate
from imaging_ingestion.dimse.command import respond
from imaging_ingestion.dimse.pdu import AssociateReject
from imaging_ingestion.dimse.requestor import Proposal, build_request
from imaging_ingestion.dimse.sop_class import (
    PATIENT_ROOT_FIND,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
)
from imaging_ingestion.intake import Intake

PRIVATE = "1.2.826.0.1.3680043.8.498.5"
QUERY = {PATIENT_ROOT_FIND, STUDY_ROOT_FIND}


class Performer:
    """Somebody who performs something."""

    async def perform(self, request: IncomingRequest) -> None:
        await request.respond(respond(request.command, 0))


@pytest.fixture
async def intake(tmp_path: Path) -> AsyncIterator[Intake]:
    async with stow_site(tmp_path / "site") as site:
        yield site.service.intake


def offered(policy: AcceptorPolicy, *proposals: Proposal, called: str = "STORE") -> Acceptance:
    request = build_request(proposals, called_ae_title=called, calling_ae_title="PEER")
    answer = negotiate(request, policy)
    assert isinstance(answer, Acceptance)
    return answer


def accepted(policy: AcceptorPolicy, *classes: str) -> set[str]:
    proposals = [Proposal(uid, (EXPLICIT, IMPLICIT)) for uid in classes]
    contexts = offered(policy, *proposals).agreement.contexts.values()
    return {context.abstract_syntax for context in contexts}


async def test_without_other_services_it_echoes_and_stores(intake: Intake) -> None:
    services = IngestionServices(intake, "hospital")
    policy = ingestion_policy(services, "STORE")
    wanted = {VERIFICATION, CT_IMAGE_STORAGE, PRIVATE}
    others = {*QUERY, STUDY_ROOT_MOVE, STUDY_ROOT_GET, STORAGE_COMMITMENT_PUSH_MODEL}
    assert accepted(policy, *wanted, *others) == wanted
    performers = services.performers()
    assert isinstance(performers.find(VERIFICATION), EchoService)
    assert isinstance(performers.find(CT_IMAGE_STORAGE), StoreService)
    assert isinstance(performers.find(PRIVATE), StoreService)


async def test_each_service_that_is_given_is_offered_and_performs(intake: Intake) -> None:
    find, move, get, commitment = (Performer() for _ in range(4))
    services = IngestionServices(
        intake, "hospital", find=find, move=move, get=get, commitment=commitment
    )
    by_class = {
        STUDY_ROOT_FIND: find,
        PATIENT_ROOT_FIND: find,
        STUDY_ROOT_MOVE: move,
        STUDY_ROOT_GET: get,
        STORAGE_COMMITMENT_PUSH_MODEL: commitment,
    }
    assert accepted(ingestion_policy(services, "STORE"), *by_class) == set(by_class)
    performers = services.performers()
    assert {uid: performers.find(uid) for uid in by_class} == by_class


async def test_relational_queries_are_agreed_to(intake: Intake) -> None:  # A12
    services = IngestionServices(intake, "hospital", find=Performer(), get=Performer())
    proposals = [
        Proposal(uid, (IMPLICIT,), extended=b"\1") for uid in (STUDY_ROOT_FIND, STUDY_ROOT_GET)
    ]
    agreement = offered(ingestion_policy(services, "STORE"), *proposals).agreement
    assert agreement.extended == {STUDY_ROOT_FIND: b"\1", STUDY_ROOT_GET: b"\1"}


@pytest.mark.parametrize("with_get", [False, True])
@pytest.mark.parametrize("sop_class", [CT_IMAGE_STORAGE, PRIVATE])
async def test_a_requestor_may_be_scp_of_storage_where_there_is_c_get(
    intake: Intake, with_get: bool, sop_class: str
) -> None:  # A11, C26
    services = IngestionServices(intake, "hospital", get=Performer() if with_get else None)
    proposal = Proposal(sop_class, (EXPLICIT,), as_scu=True, as_scp=True)
    (context,) = offered(ingestion_policy(services, "STORE"), proposal).agreement.contexts.values()
    assert context.as_scp
    assert context.as_scu == with_get


async def test_only_what_the_site_allows_is_stored(intake: Intake) -> None:
    storage = StorageContexts(frozenset({CT_IMAGE_STORAGE}), (IMPLICIT,))
    policy = ingestion_policy(IngestionServices(intake, "hospital"), "STORE", storage=storage)
    mr = "1.2.840.10008.5.1.4.1.1.4"
    assert accepted(policy, CT_IMAGE_STORAGE, mr, PRIVATE, VERIFICATION) == {
        CT_IMAGE_STORAGE,
        VERIFICATION,
    }
    (context,) = offered(
        policy, Proposal(CT_IMAGE_STORAGE, (EXPLICIT, IMPLICIT))
    ).agreement.contexts.values()
    assert context.transfer_syntax == IMPLICIT


async def test_it_answers_to_its_title_and_to_those_it_knows(intake: Intake) -> None:  # A2
    services = IngestionServices(intake, "hospital")
    policy = ingestion_policy(services, "STORE", calling_ae_titles=frozenset({"CT1"}))
    reasons = set()
    for called, calling in (("OTHER", "CT1"), ("STORE", "CT2")):
        answer = negotiate(
            build_request([CT], called_ae_title=called, calling_ae_title=calling), policy
        )
        assert isinstance(answer, AssociateReject)
        reasons.add((answer.result, answer.source, answer.reason))
    assert reasons == {(1, 1, 7), (1, 1, 3)}


async def test_all_of_it_works_on_one_association(tmp_path: Path) -> None:
    async with stow_site(tmp_path / "site") as site:
        services = IngestionServices(
            site.service.intake,
            "hospital",
            find=FindService(site.database, site.space.name),
        )
        listener = Listener(ingestion_policy(services, "STORE"), services.performers())
        port = await listener.listen("127.0.0.1", 0)
        try:
            association = await connect(
                "127.0.0.1",
                port,
                [CT, ECHO, Proposal(STUDY_ROOT_FIND, (IMPLICIT,))],
                called_ae_title="STORE",
                calling_ae_title="PEER",
            )
            assert len(association.agreement.contexts) == 3
            sent = ct()
            assert (await store(association, sent)).status == 0
            await association.release()
            row = (await site.recorded())[sent.sop_instance]
            assert data_set_of((site.root / row.object_name).read_bytes()) == sent.data_set
        finally:
            await listener.stop()

"""C-STORE as SCU: what is proposed, which context is taken, and what failures leave behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from dimse_site import CT_IMAGE_STORAGE as CT
from dimse_site import EXPLICIT, IMPLICIT, ct
from storage_peers import Collector, destination

from imaging_ingestion.association.connect import connect
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.store_user import Kind, context_for, propose, store
from imaging_ingestion.dicom.transcode import TranscodeError
from imaging_ingestion.dimse.command import CStoreRequest
from imaging_ingestion.dimse.requestor import build_request
from imaging_ingestion.transcoding.transcoder import Transcoder

MR, JPEG = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.4.70"
PRIVATE = "1.3.46.670589.5.0.1"


def contexts(kinds: Sequence[Kind], transcoder: Transcoder | None) -> list[tuple[str, int]]:
    """SOP class and number of transfer syntaxes of each context that is proposed."""
    request = build_request(
        propose(kinds, transcoder).proposals, called_ae_title="A", calling_ae_title="B"
    )
    return [(c.abstract_syntax, len(c.transfer_syntaxes)) for c in request.presentation_contexts]


def test_each_kind_has_a_context_of_its_own_and_each_class_one_for_the_rest() -> None:  # C22
    kinds = [(CT, JPEG), (MR, EXPLICIT), (CT, EXPLICIT)]
    assert contexts(kinds, None) == [(CT, 1), (CT, 1), (MR, 1)]
    others = len(Transcoder().targets(EXPLICIT))
    assert contexts(kinds, Transcoder()) == [(CT, 1), (CT, 1), (CT, others), (MR, 1), (MR, others)]


@pytest.mark.parametrize("transcoder", [None, Transcoder()])
@pytest.mark.parametrize(("classes", "syntaxes"), [(1, 300), (300, 1), (40, 7), (64, 1), (127, 1)])
def test_what_comes_first_is_proposed_as_far_as_there_is_room(
    transcoder: Transcoder | None, classes: int, syntaxes: int
) -> None:
    kinds = [(f"1.2.3.{one}", f"1.2.4.{two}") for one in range(classes) for two in range(syntaxes)]
    proposed = propose(kinds, transcoder)
    assert 1 <= len(contexts(kinds, transcoder)) <= 128
    assert kinds[0] in proposed.kinds
    assert proposed.kinds <= set(kinds)
    assert len(proposed.kinds) >= min(len(kinds), 64)


def test_a_class_that_the_peer_may_not_know_is_declared_as_storage() -> None:
    proposals = propose([(PRIVATE, EXPLICIT), (CT, EXPLICIT)], None).proposals
    assert [bool(proposal.service_class_uid) for proposal in proposals] == [True, False]


class Breaking:
    """Cannot convert: on entry, or in the middle."""

    def __init__(self, error: Exception, *, on_entry: bool) -> None:
        self._error = error
        self._on_entry = on_entry

    def targets(self, transfer_syntax_uid: str) -> Sequence[str]:
        return (IMPLICIT,)

    @asynccontextmanager
    async def converted(
        self, data_set: AsyncIterator[bytes], source_uid: str, target_uid: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if self._on_entry:
            raise self._error

        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(1 << 20)
            raise self._error

        yield pieces()


@pytest.mark.parametrize("error", [TranscodeError("broken"), OSError(28, "No space left")])
@pytest.mark.parametrize("on_entry", [True, False])
async def test_what_fails_before_anything_is_sent_leaves_the_association(
    error: Exception, on_entry: bool
) -> None:
    sent = ct()
    collector = Collector()
    async with destination(collector, syntaxes=(IMPLICIT,)) as (peer, _):
        breaking = Breaking(error, on_entry=on_entry)
        association = await connect(
            peer.host,
            peer.port,
            propose([(CT, EXPLICIT)], breaking).proposals,
            called_ae_title=peer.ae_title,
            calling_ae_title="TEST",
        )
        context = context_for(association.agreement, (CT, EXPLICIT), breaking)
        assert context is not None
        request = CStoreRequest(
            message_id=0,
            affected_sop_class_uid=sent.sop_class,
            affected_sop_instance_uid=sent.sop_instance,
        )

        async def whole() -> AsyncIterator[bytes]:
            yield sent.data_set

        with pytest.raises(type(error)):
            await store(association, context, request, whole(), EXPLICIT, breaking)
        assert association.is_open is on_entry
        response = store(association, context, request, whole(), EXPLICIT, Transcoder())
        if on_entry:
            assert (await response).status == 0
            await association.release()
        else:
            with pytest.raises(AssociationError):
                await response
    assert len(collector.arrived) == int(on_entry)


async def test_the_own_transfer_syntax_goes_before_others() -> None:  # C22
    transcoder = Transcoder()
    for accepted, expected in (
        ((EXPLICIT, IMPLICIT), EXPLICIT),
        ((IMPLICIT,), IMPLICIT),
        ((JPEG,), None),
    ):
        async with destination(Collector(), syntaxes=accepted) as (peer, _):
            association = await connect(
                peer.host,
                peer.port,
                propose([(CT, EXPLICIT)], transcoder).proposals,
                called_ae_title=peer.ae_title,
                calling_ae_title="TEST",
            )
            context = context_for(association.agreement, (CT, EXPLICIT), transcoder)
            assert (context and context.transfer_syntax) == expected
            await association.release()


DEFLATED = "1.2.840.10008.1.2.1.99"


@pytest.mark.parametrize(
    ("syntax", "data", "sent"),
    [
        (DEFLATED, b"\x03\x00\x01", b"\x03\x00\x01\0"),  # PS3.5 A.5
        (DEFLATED, b"\x03\x00", b"\x03\x00"),
        (EXPLICIT, b"odd", b"odd"),  # it is wrong, but to add to it would not make it right
    ],
)
async def test_a_deflated_data_set_of_odd_length_gets_a_null_byte(
    syntax: str, data: bytes, sent: bytes
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield data[:1]
        yield data[1:]

    collector = Collector()
    async with destination(collector, syntaxes=(syntax,)) as (peer, _):
        association = await connect(
            peer.host,
            peer.port,
            propose([(CT, syntax)], None).proposals,
            called_ae_title=peer.ae_title,
            calling_ae_title="TEST",
        )
        context = context_for(association.agreement, (CT, syntax), None)
        assert context is not None
        request = CStoreRequest(
            message_id=0, affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3"
        )
        await store(association, context, request, pieces(), syntax, None)
        await association.release()
    assert [one.data_set for one in collector.arrived] == [sent]

"""Associations for a C-MOVE: every kind of instance has its own context, 128 on each at most."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

import pytest

from imaging_ingestion.association.services.move_plan import plan_associations
from imaging_ingestion.dimse.requestor import build_request
from imaging_ingestion.dimse.sop_class import STORAGE_SERVICE_CLASS
from imaging_ingestion.manifest.selection import Kind

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"


class ToPlain:
    """Says that anything can be brought into the two plain transfer syntaxes."""

    def targets(self, transfer_syntax_uid: str) -> Sequence[str]:
        return (EXPLICIT, IMPLICIT)

    def converted(
        self, data_set: AsyncIterator[bytes], source_uid: str, target_uid: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return nullcontext(data_set)


def test_each_transfer_syntax_is_proposed_by_itself() -> None:  # C22
    (planned,) = plan_associations([Kind(CT, JPEG), Kind(CT, EXPLICIT), Kind(MR, EXPLICIT)], None)
    request = build_request(planned.proposals, called_ae_title="A", calling_ae_title="B")
    assert [(c.abstract_syntax, c.transfer_syntaxes) for c in request.presentation_contexts] == [
        (CT, (EXPLICIT,)),
        (CT, (JPEG,)),
        (MR, (EXPLICIT,)),
    ]


def test_what_instances_can_be_brought_into_is_proposed_beside() -> None:  # C22
    (planned,) = plan_associations([Kind(CT, JPEG), Kind(MR, EXPLICIT)], ToPlain())
    request = build_request(planned.proposals, called_ae_title="A", calling_ae_title="B")
    assert [(c.abstract_syntax, c.transfer_syntaxes) for c in request.presentation_contexts] == [
        (CT, (JPEG,)),
        (CT, (EXPLICIT, IMPLICIT)),
        (MR, (EXPLICIT,)),
        (MR, (IMPLICIT,)),
    ]


@pytest.mark.parametrize("transcoder", [None, ToPlain()])
@pytest.mark.parametrize(("classes", "syntaxes"), [(1, 1), (1, 300), (300, 1), (40, 7), (128, 2)])
def test_more_contexts_than_fit_make_more_associations(  # C22
    transcoder: ToPlain | None, classes: int, syntaxes: int
) -> None:
    kinds = {
        Kind(f"1.2.3.{number}", f"1.2.4.{other}")
        for number in range(classes)
        for other in range(syntaxes)
    }
    planned = plan_associations(kinds, transcoder)
    requests = [
        build_request(one.proposals, called_ae_title="A", calling_ae_title="B") for one in planned
    ]
    assert [kind for one in planned for kind in one.kinds] == sorted(kinds)
    for one, request in zip(planned, requests, strict=True):
        contexts = request.presentation_contexts
        assert 1 <= len(contexts) <= 128
        for kind in one.kinds:
            own = (kind.sop_class_uid, (kind.transfer_syntax_uid,))
            assert own in [(c.abstract_syntax, c.transfer_syntaxes) for c in contexts]
    extra = 0 if transcoder is None else classes
    assert len(planned) <= 1 + (len(kinds) + extra) // 126


def test_a_class_that_the_destination_may_not_know_is_declared_as_storage() -> None:
    (planned,) = plan_associations(
        [Kind("1.3.46.670589.5.0.1", EXPLICIT), Kind(CT, EXPLICIT)], None
    )
    request = build_request(planned.proposals, called_ae_title="A", calling_ae_title="B")
    (declared,) = request.user_information.sop_class_common_extended
    assert declared.sop_class_uid == "1.3.46.670589.5.0.1"
    assert declared.service_class_uid == STORAGE_SERVICE_CLASS


def test_nothing_to_send_needs_no_association() -> None:
    assert list(plan_associations([], None)) == []

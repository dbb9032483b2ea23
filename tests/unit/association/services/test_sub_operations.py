"""Sub-operations are counted so that every response adds up, and end in the right status."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identifiers import EXPLICIT, IMPLICIT, decoded

from imaging_ingestion.association.services.sub_operations import (
    Outcome,
    SubOperations,
    outcome_of,
)
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CMoveRequest, CMoveResponse

COMPLETED, WARNING, FAILED = Outcome.COMPLETED, Outcome.WARNING, Outcome.FAILED
REQUEST = CMoveRequest(message_id=7, affected_sop_class_uid="1.2", move_destination="DEST")


def response(done: SubOperations, code: int) -> CMoveResponse:
    made = done.response(REQUEST, code)
    assert isinstance(made, CMoveResponse)
    return made


def after(*outcomes: Outcome, total: int | None = None) -> SubOperations:
    done = SubOperations(len(outcomes) if total is None else total)
    for number, outcome in enumerate(outcomes):
        done.record(outcome, f"1.2.{number}")
    return done


@given(st.lists(st.sampled_from(Outcome), max_size=20))
def test_the_numbers_add_up_at_each_step(outcomes: list[Outcome]) -> None:  # C19
    done = SubOperations(len(outcomes))
    for outcome in outcomes:
        done.record(outcome, "1.2.3")
        pending = response(done, status.RETRIEVE_PENDING)
        numbers = (
            pending.number_of_remaining_suboperations,
            pending.number_of_completed_suboperations,
            pending.number_of_failed_suboperations,
            pending.number_of_warning_suboperations,
        )
        assert None not in numbers
        assert sum(number or 0 for number in numbers) == len(outcomes)


@pytest.mark.parametrize(
    ("outcomes", "final"),
    [
        ([], status.SUCCESS),  # C25
        ([COMPLETED, COMPLETED], status.SUCCESS),
        ([COMPLETED, FAILED], status.RETRIEVE_WARNING),
        ([COMPLETED, WARNING], status.RETRIEVE_WARNING),
        ([FAILED, WARNING], status.RETRIEVE_WARNING),
        ([FAILED, FAILED], status.RETRIEVE_OUT_OF_RESOURCES_SUBOPERATIONS),
    ],
)
def test_the_final_status_says_how_the_sub_operations_ended(  # C20
    outcomes: list[Outcome], final: int
) -> None:
    assert after(*outcomes).final_status() == final


def test_how_many_remain_is_said_while_the_retrieval_goes_on_or_when_it_is_cancelled() -> None:
    # C21, C24
    done = after(COMPLETED, FAILED, total=5)
    assert response(done, status.RETRIEVE_PENDING).number_of_remaining_suboperations == 3
    assert response(done, status.RETRIEVE_CANCEL).number_of_remaining_suboperations == 3
    done.fail_rest()
    final = response(done, done.final_status())
    assert final.number_of_remaining_suboperations is None
    assert final.number_of_failed_suboperations == 4
    assert final.message_id_being_responded_to == 7


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_failures_are_listed_and_nothing_else(syntax: str) -> None:  # C21
    identifier = after(COMPLETED, FAILED, WARNING, FAILED).identifier(syntax)
    assert identifier is not None
    found = decoded(identifier, syntax)
    assert found.FailedSOPInstanceUIDList == ["1.2.1", "1.2.3"]
    assert len(found) == 1
    assert after(COMPLETED, WARNING).identifier(syntax) is None


def test_a_failure_without_a_uid_is_counted() -> None:
    done = SubOperations(1)
    done.record(FAILED, None)
    assert done.failed == 1
    assert done.identifier(EXPLICIT) is None


def test_a_list_of_failures_is_as_long_as_explicit_vr_can_tell() -> None:
    done = SubOperations(5000)
    for number in range(5000):
        done.record(FAILED, f"1.2.826.0.1.3680043.8.498.1{number:036}")
    assert done.failed == 5000
    assert not done.lists_all_failures
    identifier = done.identifier(EXPLICIT)
    assert identifier is not None
    assert identifier[4:6] == b"UI"
    assert 900 < len(decoded(identifier).FailedSOPInstanceUIDList) < 5000


def test_numbers_that_do_not_fit_are_told_as_the_most_that_fit() -> None:
    done = SubOperations(100_000)
    assert response(done, status.RETRIEVE_PENDING).number_of_remaining_suboperations == 0xFFFF


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0x0000, COMPLETED),
        (0xB000, WARNING),
        (0xB007, WARNING),
        (0xA700, FAILED),
        (0xA900, FAILED),
        (0xC000, FAILED),
        (0x0122, FAILED),
        (0xFF00, FAILED),
    ],
)
def test_the_status_of_a_store_says_how_the_sub_operation_ended(  # C23
    code: int, outcome: Outcome
) -> None:
    assert outcome_of(code) is outcome

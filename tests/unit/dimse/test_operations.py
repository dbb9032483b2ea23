"""Outstanding operations of an association."""

from __future__ import annotations

import pytest

from imaging_ingestion.dimse.error import LocalProtocolError, UnexpectedParameterError
from imaging_ingestion.dimse.operations import InvokedOperations, PerformedOperations


# A22
def test_a_message_id_in_use_is_a_duplicate_invocation() -> None:
    operations = PerformedOperations(limit=0)
    assert operations.begin(7) is None
    assert operations.begin(8) is None
    assert operations.begin(7) == 0x0210
    assert len(operations) == 2
    operations.end(7)
    assert operations.begin(7) is None


# C15
def test_a_cancel_means_something_while_its_operation_is_under_way() -> None:
    operations = PerformedOperations()
    assert not operations.is_under_way(7)
    operations.begin(7)
    assert operations.is_under_way(7)
    operations.end(7)
    operations.end(7)
    assert not operations.is_under_way(7)


# A10
@pytest.mark.parametrize(("limit", "at"), [(1, 1), (3, 3), (0, None)])
def test_the_window_is_known(limit: int, at: int | None) -> None:
    operations = PerformedOperations(limit)
    for message_id in range(1, 10):
        assert operations.at_limit is (at is not None and len(operations) >= at)
        operations.begin(message_id)


# A10
def test_no_more_is_asked_than_the_window_allows() -> None:
    operations = InvokedOperations(2)
    first, second = operations.begin(), operations.begin()
    assert first != second
    assert operations.at_limit
    with pytest.raises(LocalProtocolError):
        operations.begin()
    operations.response(first, is_final=False)
    assert operations.at_limit
    operations.response(first, is_final=True)
    assert operations.begin() not in (0, second)


def test_message_ids_go_round_without_meeting_those_in_use() -> None:
    operations = InvokedOperations(0)
    kept = operations.begin()
    seen = set()
    for _ in range(65534):
        message_id = operations.begin()
        seen.add(message_id)
        operations.response(message_id, is_final=True)
    assert seen == set(range(1, 65536)) - {kept}
    assert operations.begin() not in (0, kept)
    assert len(operations) == 2


def test_a_response_that_is_not_due_is_an_unexpected_parameter() -> None:
    operations = InvokedOperations()
    with pytest.raises(UnexpectedParameterError):
        operations.response(1, is_final=True)
    message_id = operations.begin()
    operations.response(message_id, is_final=True)
    with pytest.raises(UnexpectedParameterError):
        operations.response(message_id, is_final=True)

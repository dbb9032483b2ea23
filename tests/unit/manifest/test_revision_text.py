"""The text of a revision, written piece by piece."""

from __future__ import annotations

import json

import msgspec
import pytest

from imaging_ingestion.events.model import (
    ChangeSet,
    Element,
    RevisionInstance,
    RevisionSeries,
    RevisionStudy,
    StudyRevision,
)
from imaging_ingestion.manifest.revision_text import (
    PIECE,
    Changed,
    RevisionText,
    pieces_of,
    unpacked,
    what_changed,
)

A, B = b"a" * 32, b"b" * 32
#: Values that would mislead whoever looks for the lists' names in the text.
CUNNING = ('"series":[] "instances":[] \\"series":[] \x00é',)


@pytest.mark.parametrize(
    ("sha256", "announced", "live", "expected"),
    [
        (A, None, True, Changed.ADDITION),
        (A, A, True, None),
        (B, A, True, Changed.MODIFICATION),
        (A, A, False, Changed.DELETION),
        (B, A, False, Changed.DELETION),
        (A, None, False, None),  # came and went in between
    ],
)
def test_what_changed_of_an_instance(
    sha256: bytes, announced: bytes | None, live: bool, expected: Changed | None
) -> None:
    assert what_changed(sha256, announced, live=live) is expected


def study(*series: RevisionSeries) -> RevisionStudy:
    return RevisionStudy(
        study_instance_uid="1.2",
        study_date="20260101",
        attributes=(Element("0010", "0010", "PN", CUNNING[0]),),
        series=series,
        space=CUNNING[0],
        dicom_json=msgspec.Raw(json.dumps({"00100010": {"vr": "PN", "x": CUNNING[0]}}).encode()),
    )


def series(uid: str, *instances: RevisionInstance) -> RevisionSeries:
    return RevisionSeries(
        series_instance_uid=uid,
        number=None,
        modality="CT",
        provider_name=CUNNING[0],
        endpoint=f"http://127.0.0.1/{CUNNING[0]}",
        attributes=(),
        instances=instances,
    )


def bare(whole: RevisionSeries) -> RevisionSeries:
    return msgspec.structs.replace(whole, instances=())


@pytest.mark.parametrize("instances", [0, 1, 3, 3000])
def test_it_is_the_text_of_the_same_values_written_at_once(instances: int) -> None:
    both = [
        series(f"1.2.{n}", *(RevisionInstance(f"1.2.{n}.{i}", "1.9", i) for i in range(instances)))
        for n in (1, 2)
    ]
    changed = {
        Changed.ADDITION: [f"1.2.1/1.2.1.{i}" for i in range(instances)],
        Changed.DELETION: ["1.2.7/1.2.7.1"],
        Changed.MODIFICATION: [],
    }
    text = RevisionText(5, study())
    assert not text.tells_of_changes
    for one in both:
        text.begin_series(bare(one))
        for instance in one.instances:
            text.add(instance)
    for what, names in changed.items():
        for name in names:
            text.change(what, *name.split("/"))
    assert text.tells_of_changes
    expected = StudyRevision(
        5, study(*both), ChangeSet(*(tuple(changed[what]) for what in Changed))
    )
    packed = text.finish()
    found = b"".join(pieces_of(packed))
    assert found == msgspec.json.encode(expected)
    assert max(map(len, pieces_of(packed))) <= PIECE
    assert unpacked(packed, len(found)) == found
    assert unpacked(packed, len(found) - 1) == b""


def test_a_study_without_series_has_an_empty_list_of_them() -> None:
    text = RevisionText(1, study())
    text.change(Changed.DELETION, "1.2.1", "1.2.1.1")
    found = msgspec.json.decode(b"".join(pieces_of(text.finish())), type=StudyRevision)
    assert found == StudyRevision(1, study(), ChangeSet(deletions=("1.2.1/1.2.1.1",)))

"""Everything that fuzzing started from or found, once more."""

from __future__ import annotations

from pathlib import Path

import pytest
from dimse_drive import drive

from imaging_ingestion.dimse.event import (
    Aborted,
    AbortOrigin,
    ConnectionClosed,
    ReleaseRequested,
)

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_input_of_the_corpus_breaks_nothing(path: Path) -> None:
    drive(path.read_bytes())


def test_the_seeds_reach_what_they_are_meant_to_reach() -> None:
    def seed(name: str) -> bytes:
        return (CORPUS / f"seed-{name}").read_bytes()

    stored = drive(seed("store-and-release"))
    assert stored.data_set_bytes == 500
    assert len(stored.commands) == 2
    assert [type(event) for event in stored.events][-2:] == [ReleaseRequested, ConnectionClosed]
    assert len(drive(seed("all-commands-in-pieces")).commands) == 5
    assert drive(seed("requestor")).commands
    assert drive(seed("lost-inside-a-data-set")).events[-1] == Aborted(2, 0, AbortOrigin.CONNECTION)
    reasons = {
        "tls": 1,
        "http": 1,
        "four-gigabytes": 6,
        "empty-pdu": 6,
        "value-exceeds-pdu": 6,
        "two-requests": 2,
        "data-before-the-association": 2,
    }
    for name, reason in reasons.items():
        (aborted,) = [e for e in drive(seed(name)).events if isinstance(e, Aborted)]
        assert (aborted.source, aborted.reason) == (2, reason), name
    for name, wire in {
        "wrong-context": b"\7\0\0\0\0\4\0\0\2\5",
        "refused-context": b"\7\0\0\0\0\4\0\0\2\5",
        "wrong-group-length": b"\7\0\0\0\0\4\0\0\0\0",
    }.items():
        assert drive(seed(name)).sent.endswith(wire), name

"""Statuses against pynetdicom's tables, and their words."""

from __future__ import annotations

import pytest
from pynetdicom.status import (
    GENERAL_STATUS,
    QR_FIND_SERVICE_CLASS_STATUS,
    QR_GET_SERVICE_CLASS_STATUS,
    QR_MOVE_SERVICE_CLASS_STATUS,
    STORAGE_SERVICE_CLASS_STATUS,
    code_to_category,
)

from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.status import Service, Status, StatusKind, describe, kind_of

NAMED = {name: value for name, value in vars(status).items() if isinstance(value, Status)}
#: pynetdicom calls these failures; PS3.7 C.4.2 and C.4.3 call them warnings.
WARNINGS_OF_ANNEX_C = {0x0107, 0x0116}


def test_the_kind_of_any_code_is_that_of_annex_c() -> None:
    for code in range(0x10000):
        theirs = code_to_category(code).replace("Unknown", "Failure")
        assert kind_of(code).name.lower() == theirs.lower(), f"{code:04X}"


@pytest.mark.parametrize("code", sorted(GENERAL_STATUS))
def test_every_general_status_has_its_kind_and_words(code: int) -> None:
    kind = GENERAL_STATUS[code][0]
    expected = kind
    assert kind_of(code).name.lower() == expected.lower()
    assert "without a meaning" not in describe(code)


@pytest.mark.parametrize(
    ("service", "theirs"),
    [
        (Service.C_STORE, STORAGE_SERVICE_CLASS_STATUS),
        (Service.C_FIND, QR_FIND_SERVICE_CLASS_STATUS),
        (Service.C_MOVE, QR_MOVE_SERVICE_CLASS_STATUS),
        (Service.C_GET, QR_GET_SERVICE_CLASS_STATUS),
    ],
)
def test_every_status_of_a_service_has_words(
    service: Service, theirs: dict[int, tuple[str, str]]
) -> None:
    composite_instance_root_only = range(0xAA00, 0xAB00)
    for code in theirs:
        if code not in composite_instance_root_only:
            assert "without a meaning" not in describe(code, service), f"{code:04X}"


@pytest.mark.parametrize(
    ("code", "service", "words"),
    [
        (0x0000, Service.C_STORE, "0000H Success"),
        (0xA7FE, Service.C_STORE, "A7FEH Refused: out of resources"),
        (0xA901, Service.C_STORE, "A901H Error: data set does not match SOP class"),
        (0xC123, Service.C_STORE, "C123H Error: cannot understand"),
        (0xB000, Service.C_STORE, "B000H Warning: coercion of data elements"),
        (0xB000, Service.C_MOVE, "B000H Sub-operations complete: one or more failures or warnings"),
        (0xA801, Service.C_MOVE, "A801H Refused: move destination unknown"),
        (0xA801, Service.C_GET, "A801H failure without a meaning of its own"),
        (0xFE00, Service.C_FIND, "FE00H Matching terminated due to cancel request"),
        (0xB123, Service.C_FIND, "B123H warning without a meaning of its own"),
    ],
)
def test_the_same_code_means_what_its_service_says(code: int, service: Service, words: str) -> None:
    assert describe(code, service) == words


def test_a_named_status_is_the_number_it_stands_for() -> None:
    assert status.STORE_OUT_OF_RESOURCES == 0xA700
    assert isinstance(status.SUCCESS, int)
    assert repr(status.DUPLICATE_INVOCATION) == "<0210H Duplicate invocation>"
    assert status.FIND_PENDING.kind is StatusKind.PENDING
    assert all(0 <= value <= 0xFFFF and value.meaning for value in NAMED.values())

"""What a C-STORE target's answer means for the instance that was sent (PS3.4 table B.2-1)."""

from __future__ import annotations

import pytest

from imaging_ingestion.bindings.cstore import judge
from imaging_ingestion.dimse.command import CStoreResponse
from imaging_ingestion.dimse.status import ATTRIBUTE_LIST_ERROR
from imaging_ingestion.events.broker import RefusedError, TryAgainError


def response(status: int, comment: str | None = None) -> CStoreResponse:
    return CStoreResponse(message_id_being_responded_to=1, status=status, error_comment=comment)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0x0000, "0000H Success"),
        (0xB000, "B000H Warning: coercion of data elements"),
        (0xB006, "B006H Warning: elements discarded"),
        (0xB007, "B007H Warning: data set does not match SOP class"),
        (0xB123, "B123H warning without a meaning of its own"),
        (0x0107, f"0107H {ATTRIBUTE_LIST_ERROR.meaning}"),
    ],
)
def test_success_and_warnings_are_deliveries_and_the_warning_is_kept(
    status: int, told: str
) -> None:
    assert judge(response(status)).answer.lower() == told.lower()


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0xA7FF, 0x0110, 0x0213, 0x0210, 0xFE00])
def test_what_may_pass_is_tried_again(status: int) -> None:
    with pytest.raises(TryAgainError, match=f"^{status:04X}H "):
        judge(response(status))


@pytest.mark.parametrize(
    "status",
    [0xA900, 0xA9FF, 0xC000, 0xCFFF, 0x0111, 0x0117, 0x0122, 0x0124, 0x0211, 0x0212, 0x9999],
)
def test_what_the_target_says_of_the_instance_is_a_dead_letter(status: int) -> None:
    with pytest.raises(RefusedError, match=f"^{status:04X}H "):
        judge(response(status))


def test_the_error_comment_is_told() -> None:
    with pytest.raises(RefusedError, match=r"^C000H Error: cannot understand: no Patient ID$"):
        judge(response(0xC000, "no Patient ID"))
    with pytest.raises(TryAgainError, match=r"^A700H Refused: out of resources: disk full$"):
        judge(response(0xA700, "disk full"))
    assert judge(response(0xB000, "name changed")).answer.endswith("elements: name changed")

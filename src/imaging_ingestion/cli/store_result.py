"""What a STOW-RS server's answer says of each file that was sent (PS3.18 10.5.3 and annex I)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from imaging_ingestion.cli.collect import DicomFile

_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_OTHER_FAILURES_SEQUENCE = "0008119A"
_SEQUENCES = (_REFERENCED_SOP_SEQUENCE, _FAILED_SOP_SEQUENCE, _OTHER_FAILURES_SEQUENCE)
#: Characters of an answer that are shown.
_QUOTED = 500
#: What is said of an instance that contradicts what the server has.
KEPT_ASIDE = "it contradicts what is there; `quarantine list` shows it"


class State(StrEnum):
    """What became of a file."""

    STORED = "stored"
    ALREADY_THERE = "already there"
    KEPT_ASIDE = "kept aside"  # stored, and not shown until somebody decides
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sent:
    """A file and what became of it."""

    file: DicomFile
    state: State
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered to a store request."""

    status: int
    media_type: str
    body: bytes
    location: str | None = None

    def in_words(self) -> str:
        """The answer for people, where it is no store response."""
        if self.location and 300 <= self.status < 400:
            return f"HTTP {self.status}: the server says to use {self.location}"
        try:
            decoded = msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            words = self.body[: 4 * _QUOTED].decode("utf-8", "replace")
        else:
            said = decoded.get("detail") if isinstance(decoded, dict) else None
            words = str(said or decoded)
        words = " ".join(words.split())[:_QUOTED]
        return f"HTTP {self.status}: {words}" if words else f"HTTP {self.status}"


def read_results(answer: Answer, batch: Sequence[DicomFile]) -> list[Sent] | None:
    """What a store response says of each file; None if it says nothing about single files.

    Our own servers name the part; with others the SOP Instance UID tells which file is meant.
    """
    dataset = _store_response(answer.body)
    if dataset is None:
        # 200 says that all were stored (table 10.5.3-1), if a store response is what it is.
        silent = not answer.body.strip() or answer.media_type == "application/dicom+xml"
        stored = answer.status == 200 and silent
        return [Sent(file, State.STORED) for file in batch] if stored else None
    found: dict[int, Sent] = {}
    for tag in _SEQUENCES:
        for item in _values(dataset, tag):
            index = _place(item, batch, found) if isinstance(item, dict) else None
            if index is not None:
                failed = tag != _REFERENCED_SOP_SEQUENCE
                found[index] = _sent(batch[index], item, failed=failed)
    silence = "the server's answer does not mention it"
    return [found.get(i, Sent(file, State.FAILED, silence)) for i, file in enumerate(batch)]


def _store_response(body: bytes) -> dict[str, Any] | None:
    """The data set of the answer; some servers wrap it into an array."""
    try:
        dataset = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    if isinstance(dataset, list) and len(dataset) == 1:
        dataset = dataset[0]
    return dataset if isinstance(dataset, dict) and dataset.keys() & set(_SEQUENCES) else None


def _place(
    item: Mapping[str, Any], batch: Sequence[DicomFile], taken: Mapping[int, Sent]
) -> int | None:
    """Which file of the batch an item is about."""
    number = _value(item, "00091003")
    if _value(item, "00090010") == "IMAGING-INGESTION" and isinstance(number, int):
        return number - 1 if 0 < number <= len(batch) else None
    uid = _value(item, "00081155")
    named = [i for i, f in enumerate(batch) if f.sop_instance_uid == uid and i not in taken]
    if uid and named:
        return named[0]
    left = [i for i in range(len(batch)) if i not in taken]
    return left[0] if len(left) == 1 else None


def _sent(file: DicomFile, item: Mapping[str, Any], *, failed: bool) -> Sent:
    if failed:
        code = _value(item, "00081197")
        reason = str(_value(item, "00091002") or "the server gives no reason")
        reason = reason.removeprefix(f"part {_value(item, '00091003')}: ")
        where = f" (failure reason {code:04X}H)" if isinstance(code, int) else ""
        return Sent(file, State.FAILED, f"{reason}{where}")
    remarks = "; ".join(map(str, _values(item, "00091004"))) or None
    if _value(item, "00091001") == "QUARANTINED":
        return Sent(file, State.KEPT_ASIDE, remarks or KEPT_ASIDE)
    unchanged = _value(item, "00091001") == "UNCHANGED"
    return Sent(file, State.ALREADY_THERE if unchanged else State.STORED, remarks)


def _values(item: Mapping[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _value(item: Mapping[str, Any], tag: str) -> Any:
    values = _values(item, tag)
    return values[0] if values else None

"""Which presentation contexts a C-GET needs: an association has room for 128 (PS3.8 9.3.2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from imaging_ingestion.dicom.transfer_syntax import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    RLE_LOSSLESS,
)
from imaging_ingestion.dimse.negotiation import MAX_CONTEXTS
from imaging_ingestion.dimse.requestor import Proposal

_PLAIN: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
#: What instances come in, the most frequent first.
_SYNTAXES: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    *(f"1.2.840.10008.1.2.4.{suffix}" for suffix in (70, 90, 50, 91, 80, 57, 51, 81)),
    RLE_LOSSLESS,
    *(f"1.2.840.10008.1.2.4.{suffix}" for suffix in (201, 202, 203, 110, 102, 103, 100)),
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
)
_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
#: What is in most archives, where it is not known what is in this one.
COMMON_SOP_CLASSES: Final = tuple(
    _ROOT + suffix
    for suffix in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "2", "2.1", "4", "4.1", "4.2", "4.3"),
        *("3.1", "6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4", "12.1", "12.1.1", "12.2"),
        *("12.2.1", "13.1.1", "13.1.2", "13.1.3", "14.1", "20", "30", "128", "130", "66", "66.1"),
        *("66.4", "66.5", "67", "77.1.1", "77.1.2", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.5.4"),
        *("77.1.6", "481.1", "481.2", "481.3", "481.4", "481.5", "481.8", "481.9", "11.1", "11.2"),
        *("88.11", "88.22", "88.33", "88.34", "88.50", "88.59", "88.67", "104.1", "9.1.1"),
    )
)


def storage_proposals(known: Mapping[str, Iterable[str]]) -> tuple[Proposal, ...]:
    """Contexts to receive instances on, beside one for C-GET itself.

    `known` are the transfer syntaxes by SOP class, where they are known; without any SOP class the
    common ones are meant. Each syntax that is expected has a context of its own.
    """
    room = MAX_CONTEXTS - 1
    classes = {uid: tuple(syntaxes) for uid, syntaxes in known.items()}
    classes = classes or dict.fromkeys(COMMON_SOP_CLASSES, ())
    # First what has to be there, then, evenly, what may be.
    wanted = {uid: list(dict.fromkeys(syntaxes)) for uid, syntaxes in classes.items()}
    chosen: dict[str, list[tuple[str, ...]]] = {uid: [_PLAIN] for uid in list(wanted)[:room]}
    room -= len(chosen)
    for uid, contexts in chosen.items():
        for syntax in wanted[uid][:room]:
            contexts.append((syntax,))
            room -= 1
    for syntax in _SYNTAXES:
        for uid, contexts in chosen.items():
            if room and not wanted[uid]:
                contexts.append((syntax,))
                room -= 1
    return tuple(
        Proposal(uid, syntaxes, as_scu=False, as_scp=True)
        for uid, contexts in chosen.items()
        for syntaxes in contexts
    )

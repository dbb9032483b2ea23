"""Why an instance was not stored: values of Failure Reason (0008,1197).

STOW-RS answers them as they are (PS3.18 table I.2-2), C-STORE as its status (PS3.4 table B.2-1).
"""

from __future__ import annotations

from typing import Final

#: 0110H: processing failure. Ours: the instance may be good, send it again.
PROCESSING_FAILURE: Final = 0x0110
#: 0111H: duplicate SOP instance, for a space that keeps what came first.
DUPLICATE_SOP_INSTANCE: Final = 0x0111
#: B111H, a warning of ours (Bxxx): it is stored, but kept aside until somebody decides. Warning
#: Reason (0008,1196) of STOW-RS, and status of C-STORE: neither has one of its own for that.
KEPT_ASIDE: Final = 0xB111
#: 0122H: SOP class not supported.
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
#: A7xx: out of resources; the space is full. Ours: later it may not be.
OUT_OF_RESOURCES: Final = 0xA700
#: A701H: out of resources for good: the header is larger than is taken in.
HEADER_TOO_LARGE: Final = 0xA701
#: A9xx: the data set does not match the SOP class.
DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = 0xA900
#: A901H: its Study Instance UID is not that of the resource it was sent to.
STUDY_INSTANCE_UID_MISMATCH: Final = 0xA901
#: Cxxx: the data set cannot be understood.
CANNOT_UNDERSTAND: Final = 0xC000
#: C122H: transfer syntax not supported.
TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122

"""What two application entities agree on when they associate (PS3.7 annex D, PS3.8 7.1).

Both sides come to the same kind of value: `acceptor.negotiate` decides it, `requestor.interpret`
reads it out of the answer. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

#: The longest P-DATA-TF we announce that we take, in bytes.
DEFAULT_MAX_PDU_LENGTH: Final = 131072
MAX_CONTEXTS: Final = 128  # odd ids from 1 to 255


class ContextResult(IntEnum):
    """Result/Reason of a presentation context (PS3.8 table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context that may be used; the roles are ours on it."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    as_scu: bool
    as_scp: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed, seen from our side.

    PDU lengths are in bytes, numbers of operations at a time; 0 of either is unlimited. `extended`
    is the agreed application information by SOP class. `contexts` is by id.
    """

    called_ae_title: str
    calling_ae_title: str
    contexts: Mapping[int, AcceptedContext]
    max_sent_pdu_length: int
    max_received_pdu_length: int
    max_operations_invoked: int = 1
    max_operations_performed: int = 1
    extended: Mapping[str, bytes] = field(default_factory=dict)
    peer_implementation_class_uid: str | None = None
    peer_implementation_version_name: str | None = None
    user_identity_response: bytes | None = field(default=None, repr=False)

    def context_for(
        self, abstract_syntax: str, transfer_syntax: str | None = None, *, as_scu: bool = True
    ) -> AcceptedContext | None:
        """A context for an abstract syntax, in one of our roles, in a transfer syntax if given."""
        for context in self.contexts.values():
            if (
                context.abstract_syntax == abstract_syntax
                and transfer_syntax in (None, context.transfer_syntax)
                and (context.as_scu if as_scu else context.as_scp)
            ):
                return context
        return None

    def transfer_syntaxes_for(self, abstract_syntax: str, *, as_scu: bool = True) -> list[str]:
        """The transfer syntaxes that may be used for an abstract syntax, by context id."""
        return [
            context.transfer_syntax
            for context in self.contexts.values()
            if context.abstract_syntax == abstract_syntax
            and (context.as_scu if as_scu else context.as_scp)
        ]


def not_above(offered: int, ours: int) -> int:
    """The smaller number of operations, where 0 is unlimited (PS3.7 D.3.3.3)."""
    if offered == 0 or ours == 0:
        return offered or ours
    return min(offered, ours)

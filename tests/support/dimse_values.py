"""Hypothesis strategies for PDUs and commands: whatever may be sent."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from imaging_ingestion.dimse.command import COMMANDS, Command
from imaging_ingestion.dimse.command_set import ELEMENTS
from imaging_ingestion.dimse.pdu import (
    Abort,
    AssociateAccept,
    AssociateReject,
    AssociateRequest,
    Pdu,
    ReleaseRequest,
    ReleaseResponse,
)
from imaging_ingestion.dimse.pdu_items import (
    OperationsWindow,
    PresentationContextProposal,
    PresentationContextResult,
    RoleSelection,
    SopClassCommonExtendedNegotiation,
    SopClassExtendedNegotiation,
    UserIdentity,
    UserInformation,
)

T = TypeVar("T")

BYTES = st.integers(0, 255)
SHORTS = st.integers(0, 0xFFFF)
CONTEXT_IDS = st.integers(0, 127).map(lambda n: 2 * n + 1)
_ROOTS = st.sampled_from(["1.2.840.10008.5.1.4.1.1", "1.2.840.10008.1.2", "2.25", "1.3.6.1.4.1"])
UIDS = st.builds(lambda root, leaf: f"{root}.{leaf}", _ROOTS, st.integers(0, 10**20))
#: Whatever an AE title may have; spaces are inside only.
AE_TITLES = st.text("AZaz09_!~ ", min_size=1, max_size=16).map(lambda text: text.strip() or "X")
VERSION_NAMES = st.text("AZ09_", min_size=1, max_size=16)


def user_identities(kinds: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[UserIdentity]:
    """Identities of any kind; only kind 2 has a secondary field."""
    return st.builds(
        lambda kind, primary, secondary, wanted: UserIdentity(
            kind, primary, secondary if kind == 2 else b"", wanted
        ),
        kinds or st.integers(1, 5),
        st.binary(min_size=1, max_size=40),
        st.binary(min_size=1, max_size=40),
        st.booleans(),
    )


ROLES = st.builds(RoleSelection, UIDS, st.booleans(), st.booleans())
EXTENDED = st.builds(SopClassExtendedNegotiation, UIDS, st.binary(min_size=1, max_size=8))
COMMON = st.builds(
    SopClassCommonExtendedNegotiation, UIDS, UIDS, st.lists(UIDS, max_size=3).map(tuple)
)


def _information(
    *, complete: bool, **more: st.SearchStrategy[object]
) -> st.SearchStrategy[UserInformation]:
    """User information; `complete`: with what the standard makes mandatory."""
    absent = st.nothing() if complete else st.none()
    roles = ROLES.filter(lambda role: role.scu_role or role.scp_role) if complete else ROLES
    return st.builds(
        UserInformation,
        max_pdu_length=absent | st.integers(0, 0xFFFFFFFF),
        implementation_class_uid=absent | UIDS,
        implementation_version_name=st.none() | VERSION_NAMES,
        operations_window=st.none() | st.builds(OperationsWindow, SHORTS, SHORTS),
        role_selections=_by_class(roles),
        sop_class_extended=_by_class(EXTENDED),
        **more,
    )


def _by_class(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[tuple[T, ...]]:
    """Items of which there is one for a SOP class."""
    return st.lists(strategy, max_size=3, unique_by=lambda item: item.sop_class_uid).map(tuple)


def _contexts(strategy: st.SearchStrategy[T], fewest: int) -> st.SearchStrategy[tuple[T, ...]]:
    unique = st.lists(strategy, min_size=fewest, max_size=4, unique_by=lambda c: c.context_id)
    return unique.map(tuple)


PROPOSALS = st.builds(
    PresentationContextProposal,
    CONTEXT_IDS,
    UIDS,
    st.lists(UIDS, min_size=1, max_size=3, unique=True).map(tuple),
)
RESULTS = st.builds(
    lambda context_id, result, syntax: PresentationContextResult(
        context_id, result, syntax if result == 0 else ""
    ),
    CONTEXT_IDS,
    st.integers(0, 4),
    UIDS,
)


def requests(*, complete: bool = False) -> st.SearchStrategy[AssociateRequest]:
    """Requests; `complete`: with everything that the standard makes mandatory."""
    information = _information(
        complete=complete,
        sop_class_common_extended=_by_class(COMMON),
        user_identity=st.none() | user_identities(),
    )
    contexts = _contexts(PROPOSALS, int(complete))
    return st.builds(AssociateRequest, AE_TITLES, AE_TITLES, contexts, information)


def accepts(*, complete: bool = False) -> st.SearchStrategy[AssociateAccept]:
    """Acceptances; `complete`: of all contexts, with everything that is mandatory."""
    response = st.none() | st.binary(min_size=int(complete), max_size=40)
    information = _information(complete=complete, user_identity_response=response)
    results = RESULTS.filter(lambda c: c.result == 0) if complete else RESULTS
    contexts = _contexts(results, int(complete))
    return st.builds(AssociateAccept, AE_TITLES, AE_TITLES, contexts, information)


PDUS: st.SearchStrategy[Pdu] = st.one_of(
    requests(),
    accepts(),
    st.builds(AssociateReject, BYTES, BYTES, BYTES),
    st.just(ReleaseRequest()),
    st.just(ReleaseResponse()),
    st.builds(Abort, BYTES, BYTES),
)

_VALUES: dict[str, st.SearchStrategy[object]] = {
    "UI": UIDS,
    "US": SHORTS,
    "AE": AE_TITLES,
    "LO": st.text("Ab9 ", min_size=1, max_size=64).map(lambda t: " ".join(t.split()) or "x"),
    "AT": st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=4).map(tuple),
}


def commands_of(command: type[Command]) -> st.SearchStrategy[Command]:
    """Any value of one command."""
    fields = {}
    for field in msgspec.structs.fields(command):
        value = _VALUES[ELEMENTS[field.name].vr]
        fields[field.name] = value if field.required else st.none() | value
        if field.name == "priority":
            fields[field.name] = st.integers(0, 2)
    return st.builds(command, **fields)


COMMAND_VALUES: st.SearchStrategy[Command] = st.sampled_from(
    [COMMANDS[field] for field in sorted(COMMANDS)]
).flatmap(commands_of)

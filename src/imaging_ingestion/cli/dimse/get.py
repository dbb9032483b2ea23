"""`get`: instances of an application entity into files (PS3.4 C.4.3).

What there is is looked up first (C-FIND), so that contexts are proposed for what will come, and
what did not come is known.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.cli.dimse.file_store import FileStore
from imaging_ingestion.cli.dimse.find import query
from imaging_ingestion.cli.dimse.get_contexts import storage_proposals
from imaging_ingestion.cli.dimse.keys import (
    UNIQUE_KEYS,
    Element,
    Keys,
    identifier,
    level_of,
    parse_keys,
    return_key,
    text_of,
)
from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer
from imaging_ingestion.cli.dimse.retrieval import Outcome, progress, retrieve, show
from imaging_ingestion.cli.dimse.session import FailedError, associated, run
from imaging_ingestion.dimse.command import CGetRequest
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import (
    DATA_SET_TRANSFER_SYNTAXES,
    PATIENT_ROOT_GET,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
)

_SOP_CLASS_UID, _SOP_INSTANCE_UID = "00080016", "00080018"
_AVAILABLE_TRANSFER_SYNTAX_UID = "00083002"
_RETURNED = ("SOPClassUID", "AvailableTransferSyntaxUID")
_BELOW = {"patient": "study", "study": "series", "series": "image"}


@dataclass(slots=True)
class Known:
    """What the peer says it has: SOP Instance UIDs, and transfer syntaxes by SOP class."""

    instances: set[str] = field(default_factory=set)
    syntaxes: dict[str, set[str]] = field(default_factory=dict)


def get(to: str, keys: Sequence[str], out: Path, options: DimseOptions, *, as_json: bool) -> None:
    """Send one C-GET, write what comes to `out`, and show how it goes."""
    store = FileStore(out)
    outcome = run(_get(to, keys, store, options), to)
    if store.problem is not None and outcome.problem is None:
        outcome.problem = store.problem
    told = {**outcome.as_json(), "files": [str(path) for path in store.files.values()]}
    said = f"{len(store.files)} received in {out}, {outcome.failed} failed"
    show(outcome, said, as_json=told if as_json else None)


async def _get(to: str, given: Sequence[str], store: FileStore, options: DimseOptions) -> Outcome:
    keys, peer = parse_keys(given), Peer.parse(to)
    level = level_of(keys)
    store.prepare()
    known = await _look_up(peer, level, keys, options)
    sop_class = PATIENT_ROOT_GET if level == "patient" else STUDY_ROOT_GET
    storage = storage_proposals(known.syntaxes)
    proposals = [Proposal(sop_class, DATA_SET_TRANSFER_SYNTAXES), *storage]
    services = {proposal.abstract_syntax: store for proposal in storage}
    async with associated(peer, options, proposals, services) as association:
        context = association.agreement.context_for(sop_class)
        if context is None:
            raise FailedError(f"{to} has no C-GET; `move` may be what it has")
        request = CGetRequest(message_id=0, affected_sop_class_uid=sop_class)
        with progress("receiving") as bar:
            task = bar.add_task("get", total=len(known.instances))

            def report(outcome: Outcome) -> None:
                done = outcome.completed + outcome.failed + outcome.warning
                bar.update(task, completed=done, total=done + outcome.remaining)

            asked = identifier(level, keys, context.transfer_syntax)
            outcome = await retrieve(association, context, request, asked, report)
    missing = known.instances - store.files.keys() - set(outcome.failed_uids)
    outcome.failed_uids = (*outcome.failed_uids, *sorted(missing))
    outcome.failed = max(outcome.failed, len(outcome.failed_uids))
    return outcome


async def _look_up(peer: Peer, level: str, keys: Keys, options: DimseOptions) -> Known:
    """What will come, as far as the peer can be asked for it."""
    known = Known()
    unique = {tag: keys[tag] for tag in UNIQUE_KEYS.values() if tag in keys}
    proposals = [Proposal(STUDY_ROOT_FIND, DATA_SET_TRANSFER_SYNTAXES)]
    try:
        async with associated(peer, options, proposals) as association:
            async for instance in _instances(association, level, unique):
                uid = text_of(instance.get(_SOP_INSTANCE_UID))
                sop_class = text_of(instance.get(_SOP_CLASS_UID))
                if uid and sop_class:
                    known.instances.add(uid)
                    syntaxes = known.syntaxes.setdefault(sop_class, set())
                    syntax = text_of(instance.get(_AVAILABLE_TRANSFER_SYNTAX_UID))
                    syntaxes.update(filter(None, syntax.split("\\")))
    except (FailedError, AssociationError):
        return Known()  # a peer without C-FIND, or one that wants other keys
    return known


async def _instances(
    association: Association, level: str, keys: Keys
) -> AsyncGenerator[dict[str, Element], None]:
    """Every instance that unique keys stand for. Raises FailedError, AssociationError."""
    if level == "image":
        returned = dict(map(return_key, ("SOPInstanceUID", *_RETURNED)))
        async for result in query(association, STUDY_ROOT_FIND, level, {**returned, **keys}):
            if not isinstance(result, str):
                yield result
        return
    below = _BELOW[level]
    for parent in _one_by_one(keys, UNIQUE_KEYS[level]):
        if below == "image":
            children = [parent]
        else:
            # All of them first: an association answers one query at a time.
            tag = UNIQUE_KEYS[below]
            asked = {**parent, tag: {"vr": "UI"}}
            found = query(association, STUDY_ROOT_FIND, below, asked)
            uids = [text_of(one.get(tag)) async for one in found if not isinstance(one, str)]
            kept = {} if level == "patient" else parent  # Study Root has no patients below STUDY
            children = [{**kept, tag: {"vr": "UI", "Value": [uid]}} for uid in uids if uid]
        for child in children:
            async for instance in _instances(association, below, child):
                yield instance


def _one_by_one(keys: Keys, tag: str) -> Iterator[Keys]:
    """The keys with each of the values of one of them."""
    for value in keys[tag]["Value"]:
        yield {**keys, tag: {"vr": keys[tag]["vr"], "Value": [value]}}

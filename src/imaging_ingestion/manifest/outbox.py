"""How far the log has been handed to a carrier, and who hands it on.

A core's outbox is a row of `subscription` beside those of its bindings. One process at a time has
it: a claim with a time to which it holds. Whoever lost it changes nothing any more, and whoever
takes it goes on after the position; what was carried but not counted is carried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from imaging_ingestion.events.model import (
    DELIVERY_FAILED,
    DICOM_AVAILABLE,
    IMAGE_STORED,
    STUDY_REVISION,
    ChangeKind,
    DeliveryFailed,
    Event,
)
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.deliveries import DEAD
from imaging_ingestion.manifest.event_data import (
    RootsOf,
    about_instance,
    event_of,
    images_stored,
    source_of,
    time_of,
    with_data,
)
from imaging_ingestion.manifest.schema import change, delivery, subscription

#: The outbox among the subscriptions. A binding's name begins with a letter or a digit.
OUTBOX = "_outbox"

#: The events that an entry carries, by its kind. One that is published is its event.
_TYPES: dict[str, tuple[str, ...]] = {
    ChangeKind.STORED: (IMAGE_STORED, DICOM_AVAILABLE),
    ChangeKind.REPLACED: (IMAGE_STORED, DICOM_AVAILABLE),
    ChangeKind.REVISED: (STUDY_REVISION,),
    ChangeKind.FAILED: (DELIVERY_FAILED,),
}
#: Entries whose data are read together, and bytes of data after which a batch ends.
_CHUNK = 64
_LARGEST_BATCH = 8 << 20
_PUBLISHED = ChangeKind.PUBLISHED.value
_KINDS = (*_TYPES, _PUBLISHED)


class Batch(NamedTuple):
    """Events of the log in its order. Reading goes on after `last`; at once if there is `more`.

    `gone` are those that tell of what has been deleted since: nobody need carry them.
    """

    events: list[Event]
    gone: list[Event]
    last: int
    more: bool


def register(connection: Connection) -> None:
    """Make the outbox known.

    A new one begins where the binding that is farthest behind has read to: so nothing is lost when
    a site that had the embedded broker gets another. Without bindings, at the end of the log.
    """
    known = connection.execute(
        sa.select(subscription.c.name).where(subscription.c.name == OUTBOX)
    ).scalar_one_or_none()
    if known is None:
        begin = _farthest_behind(connection)
        position = changes.last_seq(connection) if begin is None else begin
        connection.execute(sa.insert(subscription).values(name=OUTBOX, position=position))


def position(connection: Connection) -> int:
    """The number up to which all has been carried; 0 if there is no outbox."""
    found = connection.execute(
        sa.select(subscription.c.position).where(subscription.c.name == OUTBOX)
    ).scalar_one_or_none()
    return 0 if found is None else int(found)


def acquire(connection: Connection, token: int, now: int, lease: int) -> int | None:
    """Take the outbox, or hold on to it, for `lease` microseconds: its position; None if another
    process has it."""
    row = connection.execute(
        sa.select(subscription.c.position, subscription.c.claim, subscription.c.claimed_until)
        .where(subscription.c.name == OUTBOX)
        .with_for_update()
    ).one()
    if not _is_open(row.claim, row.claimed_until, token, now, lease):
        return None
    connection.execute(
        sa.update(subscription)
        .where(subscription.c.name == OUTBOX)
        .values(claim=token, claimed_until=now + lease)
    )
    return int(row.position)


def is_open(connection: Connection, token: int, now: int, lease: int) -> bool:
    """Whether `acquire` would give it, without writing."""
    row = connection.execute(
        sa.select(subscription.c.claim, subscription.c.claimed_until).where(
            subscription.c.name == OUTBOX
        )
    ).one()
    return _is_open(row.claim, row.claimed_until, token, now, lease)


def _is_open(claim: int | None, until: int | None, token: int, now: int, lease: int) -> bool:
    """A claim that holds for longer than a lease is of before a clock was set back."""
    return claim in {None, token} or not now < (until or 0) <= now + lease


def advance(connection: Connection, token: int, before: int, to: int, until: int) -> bool:
    """All between `before` and `to` has been carried, and the claim holds on.

    False if the outbox is not where it was any more: rewound, or somebody else's.
    """
    moved = connection.execute(
        sa.update(subscription)
        .where(
            subscription.c.name == OUTBOX,
            subscription.c.claim == token,
            subscription.c.position == before,
        )
        .values(position=to, claimed_until=until)
    )
    return moved.rowcount == 1


def release(connection: Connection, token: int) -> None:
    """Give it back, for whoever comes next."""
    connection.execute(
        sa.update(subscription)
        .where(subscription.c.name == OUTBOX, subscription.c.claim == token)
        .values(claim=None, claimed_until=None)
    )


def rewind(connection: Connection) -> tuple[int, int]:
    """Go back to where every binding has its deliveries; the position before and now.

    For a carrier that has lost what it carried.
    """
    before = position(connection)
    begin = _farthest_behind(connection)
    if begin is None or begin >= before:
        return before, before
    connection.execute(
        sa.update(subscription).where(subscription.c.name == OUTBOX).values(position=begin)
    )
    return before, begin


def _farthest_behind(connection: Connection) -> int | None:
    found = connection.execute(
        sa.select(sa.func.min(subscription.c.position)).where(subscription.c.name != OUTBOX)
    ).scalar_one_or_none()
    return None if found is None else int(found)


def lag(connection: Connection) -> int:
    """How many entries of the log have not been looked at by the outbox."""
    return changes.last_seq(connection) - position(connection)


def has_news(connection: Connection, after: int) -> bool:
    """Whether the log goes on after a number, without building anything."""
    return changes.last_seq(connection) > after


def next_batch(
    connection: Connection,
    after: int,
    limit: int,
    core: str,
    roots_of: RootsOf,
    api_url: str,
    largest: int,
) -> Batch:
    """The events of the next `limit` entries after a number, with their data.

    They are fewer where they are large. Data above `largest` bytes goes as a reference. What the
    carrier itself has brought is left out, and a dead letter that has been driven again.
    """
    page = changes.since(connection, after, limit, kinds=_KINDS)
    events: list[Event] = []
    gone: list[Event] = []
    size = 0
    for start in range(0, len(page.entries), _CHUNK):
        entries = page.entries[start : start + _CHUNK]
        images = _images(connection, entries, roots_of)
        for entry in entries:
            for event in _events_of(connection, entry, core):
                if event.type == IMAGE_STORED and entry.kind != _PUBLISHED:
                    image = images.get((entry.space, entry.sop_instance_uid or ""))
                    full = about_instance(event, entry, image, core, api_url, limit=largest)
                elif event.data is None and entry.kind != _PUBLISHED:
                    full = with_data(
                        connection, event, entry, core, roots_of, api_url, limit=largest
                    )
                else:
                    full = _limited(event, entry, core, api_url, largest)
                is_gone = full.data is None and full.dataref is None and entry.kind != _PUBLISHED
                (gone if is_gone else events).append(full)
                size += len(full.data or b"")
        if size > _LARGEST_BATCH and entries[-1] is not page.entries[-1]:
            return Batch(events, gone, entries[-1].seq, True)
    return Batch(events, gone, page.last, page.more)


def _images(
    connection: Connection, entries: Sequence[Change], roots_of: RootsOf
) -> dict[tuple[str, str], bytes]:
    """The data of the ImageStoredEvents of some entries, by space and SOP Instance UID."""
    wanted: dict[str, set[str]] = {}
    for entry in entries:
        if IMAGE_STORED in _TYPES.get(entry.kind, ()) and entry.sop_instance_uid is not None:
            wanted.setdefault(entry.space, set()).add(entry.sop_instance_uid)
    return {
        (space, uid): data
        for space, uids in wanted.items()
        for uid, data in images_stored(connection, space, uids, roots_of).items()
    }


def _limited(event: Event, entry: Change, core: str, api_url: str, largest: int) -> Event:
    """An event that came with its data, or with a reference to it instead."""
    if event.data is None or len(event.data) <= largest:
        return event
    reference = f"{api_url}/events/{entry.seq}?{urlencode({'core': core})}"
    return replace(event, data=None, dataref=reference)


def _events_of(connection: Connection, entry: Change, core: str) -> list[Event]:
    if entry.kind == ChangeKind.PUBLISHED:
        return [] if changes.came_by_carrier(entry) else [changes.event_of_published(entry)]
    if entry.kind == ChangeKind.FAILED:
        failed = _dead_letter(connection, entry, core)
        return [] if failed is None else [failed]
    return [event_of(entry, event_type, core) for event_type in _TYPES[entry.kind]]


def _dead_letter(connection: Connection, entry: Change, core: str) -> Event | None:
    """What a `failed` entry tells of; None if that is not dead any more."""
    number = msgspec.json.decode(entry.detail or "{}", type=_Failed).number
    # delivery_pkey
    row = connection.execute(
        sa.select(delivery.c.attempts, delivery.c.answer, delivery.c.state).where(
            delivery.c.binding == entry.binding, delivery.c.seq == number
        )
    ).one_or_none()
    if row is None or row.state != DEAD:
        return None
    source = source_of(entry, core)
    if entry.version is None:  # of an event from outside
        source = connection.execute(
            sa.select(sa.func.coalesce(change.c.source, source)).where(change.c.seq == number)
        ).scalar_one()
    failed = DeliveryFailed(
        binding=entry.binding or "",
        attempts=row.attempts,
        reason=row.answer or "",
        event_id=entry.event_id or "",
        event_source=source,
        number=number,
    )
    return Event(
        id=f"failed/{entry.binding}/{entry.seq}",
        source=source_of(entry, core),
        type=DELIVERY_FAILED,
        subject=f"deliveries/{entry.binding}/{number}",
        time=time_of(entry),
        data=msgspec.json.encode(failed),
        traceparent=entry.traceparent,
        space=entry.space,
        study_instance_uid=entry.study_instance_uid,
        seq=entry.seq,
    )


class _Failed(msgspec.Struct):
    number: int = 0


def owned(connection: Connection, events: Sequence[Event], core: str) -> list[bool]:
    """For each event, whether it is the one that the log has under its number."""
    numbers = {event.seq for event in events if event.seq is not None}
    if not numbers:
        return [False] * len(events)
    columns = [change.c[f] for f in Change.__struct_fields__]
    # change_pkey
    rows = connection.execute(sa.select(*columns).where(change.c.seq.in_(numbers))).mappings()
    entries = {row["seq"]: Change(**row) for row in rows}
    return [_is_of(event, entries.get(event.seq or 0), core) for event in events]


def _is_of(event: Event, entry: Change | None, core: str) -> bool:
    if entry is None:
        return False
    if entry.kind == ChangeKind.FAILED:
        return event.type == DELIVERY_FAILED and event.source == source_of(entry, core)
    if entry.kind != ChangeKind.PUBLISHED and event.type not in _TYPES.get(entry.kind, ()):
        return False
    known = event_of(entry, event.type, core)
    return (known.source, known.id, known.type) == (event.source, event.id, event.type)

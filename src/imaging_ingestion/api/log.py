"""The ordered log over HTTP: page by page, waiting for the next entry, or as a stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from imaging_ingestion.api.core import (
    LARGEST_NUMBER,
    PAGE,
    Core,
    CoreHandle,
    Limit,
    Since,
    SpaceFilter,
    StudyFilter,
    json_answer,
)
from imaging_ingestion.api.schemas import answers
from imaging_ingestion.dicomweb.problem import not_found
from imaging_ingestion.events.attributes import is_json
from imaging_ingestion.events.model import DICOM_AVAILABLE, IMAGE_STORED, ChangeKind
from imaging_ingestion.manifest import changes
from imaging_ingestion.manifest.changes import Change, Page, event_of_published
from imaging_ingestion.manifest.database_error import is_away
from imaging_ingestion.manifest.event_data import event_data, event_of

_POLL = 1.0  # seconds between looks for what other processes logged
_STREAM_IDLE = 15.0  # seconds until something is sent to keep a silent connection alive
_EVENT_ID = re.compile(r"[0-9]{1,18}")

router = APIRouter()
KindFilter = Annotated[
    list[ChangeKind] | None, Query(description="Only entries of these kinds; may be repeated.")
]


class Changes(msgspec.Struct, frozen=True):
    """A page of the log. Go on with `since` = `last`; at once if there is `more`."""

    changes: list[Change]
    last: int
    more: bool


#: For the OpenAPI document.
ANSWERS = (Changes,)


@router.get("/changes", summary="The ordered log after an entry", responses=answers(Changes))
async def get_changes(
    request: Request,
    core: Core,
    since: Since = 0,
    limit: Limit = PAGE,
    kind: KindFilter = None,
    space: SpaceFilter = None,
    study: StudyFilter = None,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for an entry.")] = 0,
) -> Response:
    """Entries in their order. A page may be short, or empty, and yet have more behind it."""
    stopping: asyncio.Event = request.app.state.stopping
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait
    filters = {"kinds": kind, "space": space, "study_instance_uid": study}
    while True:
        commit = core.next_commit()
        page = await _read(core, since, limit, filters)
        left = deadline - clock()
        if page.entries or page.more or left <= 0 or stopping.is_set():
            return json_answer(Changes(page.entries, page.last, page.more))
        if await request.is_disconnected():
            return Response(status_code=204)  # nobody reads it
        since = page.last
        await _within(commit, min(left, _POLL))


@router.get("/changes/stream", summary="The ordered log as it grows (server-sent events)")
async def stream_changes(
    request: Request,
    core: Core,
    since: Since = 0,
    kind: KindFilter = None,
    space: SpaceFilter = None,
    study: StudyFilter = None,
) -> StreamingResponse:
    """Each entry's id is its number; a client that comes back goes on after Last-Event-ID."""
    resumed = request.headers.get("last-event-id", "")
    start = int(resumed) if _EVENT_ID.fullmatch(resumed) else since
    filters = {"kinds": kind, "space": space, "study_instance_uid": study}
    return StreamingResponse(
        _follow(core, start, filters, request.app.state.stopping),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _follow(
    core: CoreHandle, position: int, filters: dict[str, Any], stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Entries as server-sent events; ends when the server stops, and the client comes back."""
    clock = asyncio.get_running_loop().time
    spoken = clock()
    yield b": following\n\n"
    while not stopping.is_set():
        commit = core.next_commit()
        try:
            page = await _read(core, position, PAGE, filters)
        except Exception as error:
            if is_away(error):
                return  # the client comes back
            raise
        position = page.last
        if page.entries:
            yield b"".join(
                b"id: %d\ndata: %b\n\n" % (entry.seq, msgspec.json.encode(entry))
                for entry in page.entries
            )
            spoken = clock()
        elif clock() - spoken > _STREAM_IDLE:
            # An id without data is no event, but the client resumes from there.
            yield b"id: %d\n\n" % position
            spoken = clock()
        if not page.more:
            await _within(commit, _POLL)


async def _read(core: CoreHandle, since: int, limit: int, filters: dict[str, Any]) -> Page:
    return await core.database.read(changes.since, since, limit, **filters)


async def _within(commit: asyncio.Event, seconds: float) -> None:
    """Wait for a commit, `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            await commit.wait()
    except TimeoutError:
        return


@router.get("/events/{number}", summary="The data of an event of the log")
async def get_event_data(
    core: Core,
    number: Annotated[int, Path(ge=1, le=LARGEST_NUMBER, description="Number in the log.")],
    event_type: Annotated[
        str, Query(alias="type", pattern=f"^({IMAGE_STORED}|{DICOM_AVAILABLE})$")
    ] = IMAGE_STORED,
) -> Response:
    """What the `dataref` of an event about an instance, or from outside, leads to."""
    page = await core.database.read(changes.since, number - 1, 1)
    entry = next((entry for entry in page.entries if entry.seq == number), None)
    if entry is not None and entry.kind == ChangeKind.PUBLISHED:
        published = event_of_published(entry)
        if published.data is not None:
            # Whatever it says that it is, no browser is to run it.
            json = is_json(published.content_type)
            media_type = "application/json" if json else "application/octet-stream"
            return Response(published.data, media_type=media_type)
    if entry is None or entry.kind not in {ChangeKind.STORED, ChangeKind.REPLACED}:
        raise not_found(f"entry {number} of the log is not about a stored instance")
    event = event_of(entry, event_type, core.name)
    data = await core.database.read(event_data, event, core.roots_of)
    if data is None:
        raise not_found("the instance has been deleted")
    return Response(data, media_type="application/json")

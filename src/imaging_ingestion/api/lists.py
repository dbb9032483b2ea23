"""Studies, their revisions, spaces, and what a sender may skip, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.engine import Connection

from imaging_ingestion.api.core import (
    LARGEST_NUMBER,
    LARGEST_REVISION,
    NAME_PATTERN,
    Core,
    CoreHandle,
    Limit,
    SpaceFilter,
    SpaceName,
    StudyUid,
    json_answer,
)
from imaging_ingestion.api.schemas import answers
from imaging_ingestion.dicomweb.problem import not_found
from imaging_ingestion.events.model import StudyRevision
from imaging_ingestion.manifest import overview, revision
from imaging_ingestion.manifest.held import number_waiting
from imaging_ingestion.manifest.overview import StudySummary
from imaging_ingestion.manifest.retention import Rules
from imaging_ingestion.manifest.revision_text import pieces_of
from imaging_ingestion.manifest.usage import Usage, all_usage

router = APIRouter()


class Studies(msgspec.Struct, frozen=True):
    """A page of studies, newest first. Go on with `after` = `next`, until that is null."""

    studies: list[StudySummary]
    next: int | None


class RevisionNumber(msgspec.Struct, frozen=True):
    """A revision and its time, microseconds since the epoch."""

    number: int
    at: int


class Revisions(msgspec.Struct, frozen=True):
    """The revisions of a study, oldest first."""

    revisions: list[RevisionNumber]


class SpaceUse(msgspec.Struct, frozen=True):
    """What a space holds, how much waits in quarantine, and what it may hold.

    `bytes` are those of the objects of live instances; `max_age` is in seconds.
    """

    space: str
    instances: int
    bytes: int
    quarantined: int
    max_size: int | None
    max_age: float | None


class Spaces(msgspec.Struct, frozen=True):
    """The names of a core's storage spaces."""

    spaces: tuple[str, ...]


class SpacesUse(msgspec.Struct, frozen=True):
    """What each of a core's storage spaces holds."""

    spaces: list[SpaceUse]


class Known(msgspec.Struct, frozen=True):
    """The places, from 0, of those objects in the request that the space has."""

    known: list[int]


class KnownObjectBody(BaseModel):
    """One object by its UID and the SHA-256 of its bytes."""

    sop_instance_uid: str = Field(pattern=r"^[^\x00]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9A-Fa-f]{64}$")


class KnownObjectsRequest(BaseModel):
    """What a sender has and could send."""

    space: str = Field(pattern=NAME_PATTERN)
    objects: list[KnownObjectBody] = Field(max_length=5000)


#: For the OpenAPI document.
ANSWERS = (Studies, Revisions, StudyRevision, Spaces, SpacesUse, Known)


@router.get("/studies", summary="The studies, newest first", responses=answers(Studies))
async def get_studies(
    core: Core,
    space: SpaceFilter = None,
    after: Annotated[
        int | None, Query(ge=1, le=LARGEST_NUMBER, description="`next` of the page before.")
    ] = None,
    limit: Limit = 100,
) -> Response:
    found = await core.database.read(overview.studies, space=space, after=after, limit=limit)
    return json_answer(Studies(found, found[-1].id if len(found) == limit else None))


@router.get(
    "/revisions/{space}/{study}", summary="The revisions of a study", responses=answers(Revisions)
)
async def get_revisions(core: Core, space: SpaceName, study: StudyUid) -> Response:
    found = await core.database.read(revision.numbers, space, study)
    if found is None:
        raise not_found(f"the space {space!r} has no study {study}")
    return json_answer(Revisions([RevisionNumber(number, at) for number, at in found]))


@router.get(
    "/revisions/{space}/{study}/{number}",
    summary="The data of a StudyRevisionEvent",
    responses=answers(StudyRevision),
)
async def get_revision(
    core: Core,
    space: SpaceName,
    study: StudyUid,
    number: Annotated[int, Path(ge=0, le=LARGEST_REVISION, description="From 0.")],
) -> Response:
    packed = await core.database.read(revision.load_packed, space, study, number)
    if packed is None:
        raise not_found(f"the study {study} has no revision {number} in the space {space!r}")
    return StreamingResponse(_unpacking(packed), media_type="application/json")


async def _unpacking(packed: bytes) -> AsyncIterator[bytes]:
    """The text of a revision, however many instances it tells of, in small pieces."""
    for piece in pieces_of(packed):
        yield piece


@router.get("/spaces", summary="The storage spaces", responses=answers(Spaces))
async def get_spaces(core: Core) -> Response:
    return json_answer(Spaces(core.spaces))


@router.get(
    "/spaces/use",
    summary="What the storage spaces hold, and may hold",
    responses=answers(SpacesUse),
)
async def get_spaces_use(core: Core) -> Response:
    held_by, waiting = await core.database.read(_use)
    found = []
    for space in core.spaces:
        usage, rules = held_by.get(space, Usage()), core.rules.get(space, Rules(None, None))
        max_age = None if rules.max_age is None else rules.max_age / 1_000_000
        number = waiting.get(space, 0)
        found.append(SpaceUse(space, usage.instances, usage.bytes, number, rules.max_size, max_age))
    return json_answer(SpacesUse(found))


def _use(connection: Connection) -> tuple[dict[str, Usage], dict[str, int]]:
    return all_usage(connection), number_waiting(connection)


@router.post(
    "/known-objects",
    summary="Which objects a space has already, byte for byte",
    responses=answers(Known),
)
async def post_known_objects(request: Request, core: Core, body: KnownObjectsRequest) -> Response:
    if "core" not in request.query_params:  # the space tells which one is meant
        cores: Mapping[str, CoreHandle] = request.app.state.cores
        core = next((other for other in cores.values() if body.space in other.spaces), core)
    asked = [overview.KnownObject(o.sop_instance_uid, o.sha256) for o in body.objects]
    return json_answer(Known(await core.database.read(overview.known_objects, body.space, asked)))

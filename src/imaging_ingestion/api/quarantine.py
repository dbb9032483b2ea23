"""What is kept aside, and deciding about it, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from imaging_ingestion.api.core import (
    LARGEST_NUMBER,
    Core,
    CoreHandle,
    Limit,
    SpaceFilter,
    StudyFilter,
    json_answer,
)
from imaging_ingestion.api.schemas import answers
from imaging_ingestion.brokers.quarantine import Quarantine
from imaging_ingestion.dicomweb.problem import HttpProblemError, not_found, not_implemented
from imaging_ingestion.manifest import held
from imaging_ingestion.manifest.held import Quarantined
from imaging_ingestion.manifest.resolving import ResolvedOtherwiseError, UnknownQuarantinedError
from imaging_ingestion.storage.space import ObjectReader

router = APIRouter()
Number = Annotated[int, Path(ge=1, le=LARGEST_NUMBER, description="Its `id`.")]


class QuarantinePage(msgspec.Struct, frozen=True):
    """A page of the quarantine, oldest first. Go on with `after` = `next`, until that is null."""

    quarantine: list[Quarantined]
    next: int | None


#: For the OpenAPI document.
ANSWERS = (QuarantinePage, Quarantined)


@router.get(
    "/quarantine", summary="The instances that are kept aside", responses=answers(QuarantinePage)
)
async def get_quarantine(
    core: Core,
    space: SpaceFilter = None,
    study: StudyFilter = None,
    resolved: Annotated[
        bool, Query(description="Those about which has been decided, too.")
    ] = False,
    after: Annotated[
        int, Query(ge=0, le=LARGEST_NUMBER, description="`next` of the page before.")
    ] = 0,
    limit: Limit = 100,
) -> Response:
    found = await core.database.read(
        held.page,
        space=space,
        study_instance_uid=study,
        resolved=resolved,
        after=after,
        limit=limit,
    )
    return json_answer(QuarantinePage(found, found[-1].id if len(found) == limit else None))


@router.get(
    "/quarantine/{number}",
    summary="One that is, or was, kept aside",
    responses=answers(Quarantined),
)
async def get_quarantined(core: Core, number: Number) -> Response:
    found = await core.database.read(held.find, number)
    if found is None:
        raise _unknown(number)
    return json_answer(found)


@router.get("/quarantine/{number}/instance", summary="The instance that waits, as a DICOM file")
async def get_quarantined_instance(core: Core, number: Number) -> Response:
    try:
        reader = await _quarantine(core).open(number)
    except UnknownQuarantinedError:
        raise not_found(f"no instance waits in quarantine as {number}") from None
    return StreamingResponse(
        _streamed(reader),
        media_type="application/dicom",
        headers={"Content-Length": str(reader.size), "Cache-Control": "no-store"},
    )


@router.post(
    "/quarantine/{number}/accept",
    summary="Record the instance after all: it replaces what is there",
    responses=answers(Quarantined),
)
async def post_accept(core: Core, number: Number) -> Response:
    """To accept it once more changes nothing; 409 if it has been discarded."""
    try:
        return json_answer(await _quarantine(core).accept(number))
    except UnknownQuarantinedError:
        raise _unknown(number) from None
    except ResolvedOtherwiseError as error:
        raise HttpProblemError(409, "Conflict", str(error)) from None


@router.post(
    "/quarantine/{number}/discard",
    summary="Give the instance up: its object is removed",
    responses=answers(Quarantined),
)
async def post_discard(core: Core, number: Number) -> Response:
    """To discard it once more changes nothing; 409 if it has been accepted."""
    try:
        return json_answer(await _quarantine(core).discard(number))
    except UnknownQuarantinedError:
        raise _unknown(number) from None
    except ResolvedOtherwiseError as error:
        raise HttpProblemError(409, "Conflict", str(error)) from None


async def _streamed(reader: ObjectReader) -> AsyncIterator[bytes]:
    try:
        async for piece in reader.stream():
            yield piece
    finally:
        await reader.close()


def _quarantine(core: CoreHandle) -> Quarantine:
    if core.quarantine is None:
        raise not_implemented("this server has no quarantine")
    return core.quarantine


def _unknown(number: int) -> HttpProblemError:
    return not_found(f"nothing is, or was, in quarantine as {number}")

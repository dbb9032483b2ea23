"""Deleting a study, one of its series or one instance over our own API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Response

from imaging_ingestion.api.core import (
    UID_PATTERN,
    Core,
    CoreHandle,
    SpaceName,
    StudyUid,
    json_answer,
)
from imaging_ingestion.api.schemas import answers
from imaging_ingestion.dicomweb.problem import not_implemented
from imaging_ingestion.dicomweb.retrieved_resource import unknown_resource
from imaging_ingestion.manifest.retrieve import UnknownResourceError

router = APIRouter()
SeriesUid = Annotated[str, Path(pattern=UID_PATTERN, description="Series Instance UID.")]
InstanceUid = Annotated[str, Path(pattern=UID_PATTERN, description="SOP Instance UID.")]


class Deleted(msgspec.Struct, frozen=True):
    """How many instances were deleted."""

    deleted: int


#: For the OpenAPI document.
ANSWERS = (Deleted,)


@router.delete("/studies/{space}/{study}", summary="Delete a study", responses=answers(Deleted))
async def delete_study(core: Core, space: SpaceName, study: StudyUid) -> Response:
    return await _delete(core, space, study)


@router.delete(
    "/studies/{space}/{study}/series/{series}",
    summary="Delete a series",
    responses=answers(Deleted),
)
async def delete_series(
    core: Core, space: SpaceName, study: StudyUid, series: SeriesUid
) -> Response:
    return await _delete(core, space, study, series)


@router.delete(
    "/studies/{space}/{study}/series/{series}/instances/{instance}",
    summary="Delete an instance",
    responses=answers(Deleted),
)
async def delete_instance(
    core: Core, space: SpaceName, study: StudyUid, series: SeriesUid, instance: InstanceUid
) -> Response:
    return await _delete(core, space, study, series, instance)


async def _delete(
    core: CoreHandle,
    space: str,
    study: str,
    series: str | None = None,
    instance: str | None = None,
) -> Response:
    """Answer once it is durable; 404 for what never was, 410 for what was deleted before."""
    if core.deletion is None:
        raise not_implemented("nothing can be deleted here")
    try:
        number = await core.deletion.delete(space, study, series, instance, why="API")
    except UnknownResourceError as error:
        raise unknown_resource(error, space) from None
    return json_answer(Deleted(number))

"""Deleting studies, series and instances (W36; PS3.18 has no such transaction yet).

204, at once gone from every search and retrieve. What is deleted once more is 410, for it is known
that it was there; what never was is 404.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from imaging_ingestion.dicomweb.problem import not_implemented
from imaging_ingestion.dicomweb.retrieved_resource import unknown_resource
from imaging_ingestion.dicomweb.service import DicomwebService, path_uids
from imaging_ingestion.manifest.retrieve import UnknownResourceError


class Delete:
    """The DELETE resources of one space."""

    def __init__(self, service: DicomwebService) -> None:
        self._service = service

    async def delete(self, request: Request) -> Response:
        """Answer 204 once it is durable. Raises HttpProblemError: 400, 404, 410."""
        uids = path_uids(request)
        if self._service.deletion is None:
            raise not_implemented("nothing can be deleted here")
        try:
            await self._service.deletion.delete(
                self._service.space_name,
                uids["study"],
                uids.get("series"),
                uids.get("instance"),
                why="DICOMweb",
            )
        except UnknownResourceError as error:
            raise unknown_resource(error, self._service.space_name) from None
        return Response(status_code=204)

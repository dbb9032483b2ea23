"""The study, series or instance that a retrieve request names, looked up once (PS3.18 10.4)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from sqlalchemy.engine import Connection
from starlette.requests import Request

from imaging_ingestion.dicomweb.problem import HttpProblemError, not_found
from imaging_ingestion.dicomweb.service import DicomwebService, path_uids
from imaging_ingestion.manifest.retrieve import (
    Contents,
    Instance,
    Place,
    UnknownResourceError,
    contents,
    find_place,
    instances_page,
)

INSTANCES_PAGE = 200


@dataclass(frozen=True, slots=True)
class RetrievedResource:
    """What is retrieved: where it is in the manifest, and what it consisted of when asked."""

    service: DicomwebService
    base_url: str
    place: Place
    contents: Contents

    @property
    def is_instance(self) -> bool:
        """Whether it is one instance."""
        return self.place.instance_pk is not None

    def etag(self, *variant: str) -> str:
        """A weak validator: equal as long as no instance comes, changes or goes (W33).

        `variant` is what else the representation depends on.
        """
        digest = hashlib.sha256(self.contents.digest)
        for part in variant:
            digest.update(part.encode() + b"\n")
        return f'W/"{digest.hexdigest()[:32]}"'

    async def instances(self) -> AsyncGenerator[Instance, None]:
        """Its instances, page by page."""
        after = 0
        while True:
            page = await self.service.database.read(
                instances_page, self.place, after, INSTANCES_PAGE
            )
            for instance in page:
                yield instance
            if len(page) < INSTANCES_PAGE:
                return
            after = page[-1].pk

    async def only_instance(self) -> Instance:
        """The one instance it is. Raises 404 if it has been deleted since."""
        page = await self.service.database.read(instances_page, self.place, 0, 1)
        if not page:
            raise deleted_meanwhile()
        return page[0]


async def look_up(service: DicomwebService, request: Request) -> RetrievedResource:
    """The resource in the request's path. Raises 400, 404 and 410 (W30, H14)."""
    uids = path_uids(request)
    names = [uids[name] for name in ("study", "series", "instance") if name in uids]
    try:
        place, found = await service.database.read(_look_up, service.space_name, names)
    except UnknownResourceError as error:
        raise unknown_resource(error, service.space_name) from None
    return RetrievedResource(service, service.base_url(request), place, found)


def payload_etag(instance: Instance, *variant: str, multipart: bool) -> str:
    """A validator of something made of one instance's object.

    It is weak for a multipart body, whose boundary is another one each time.
    """
    digest = hashlib.sha256(instance.sha256)
    for part in variant:
        digest.update(part.encode() + b"\n")
    return f'{"W/" if multipart else ""}"{digest.hexdigest()[:32]}"'


def instance_url(base_url: str, instance: Instance) -> str:
    """The absolute URL of an instance."""
    return (
        f"{base_url}/studies/{instance.study_instance_uid}"
        f"/series/{instance.series_instance_uid}/instances/{instance.sop_instance_uid}"
    )


def unknown_resource(error: UnknownResourceError, space: str) -> HttpProblemError:
    """410 for what was there once, 404 for anything else (H14)."""
    if error.deleted:
        return HttpProblemError(410, "Gone", f"{error} from space {space!r}")
    return not_found(f"{error} in space {space!r}")


def deleted_meanwhile() -> HttpProblemError:
    """410: what was there a moment ago."""
    return HttpProblemError(410, "Gone", "the instance was deleted while it was being retrieved")


def _look_up(connection: Connection, space: str, uids: list[str]) -> tuple[Place, Contents]:
    place = find_place(connection, space, *uids)
    return place, contents(connection, place)

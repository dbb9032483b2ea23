"""What the API knows of a core, and the parameters that its resources share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from fastapi import Depends, Path, Query, Request, Response

from imaging_ingestion.brokers.deletion import Deletion
from imaging_ingestion.brokers.quarantine import Quarantine
from imaging_ingestion.dicomweb.problem import not_found
from imaging_ingestion.events.broker import Broker
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.event_data import RootsOf
from imaging_ingestion.manifest.retention import Rules

#: Rows of one answer at most.
PAGE = 1000
LARGEST_NUMBER = (1 << 63) - 1
LARGEST_REVISION = (1 << 31) - 1
#: PostgreSQL has no place for NUL in a text, so nothing that is called so can be there.
NAME_PATTERN = r"^[^\x00]{1,253}$"
UID_PATTERN = r"^[0-9.]{1,64}$"


@dataclass(frozen=True, slots=True)
class CoreHandle:
    """What the API needs of one core.

    `next_commit` gives an event that is set once this process has added to the log; `roots_of`
    the DICOMweb roots of a space.
    """

    name: str
    database: Database
    broker: Broker
    bindings: tuple[str, ...]
    spaces: tuple[str, ...]
    next_commit: Callable[[], asyncio.Event]
    roots_of: RootsOf
    deletion: Deletion | None = None
    quarantine: Quarantine | None = None
    rules: Mapping[str, Rules] = field(default_factory=dict)


def core_of(
    request: Request,
    core: Annotated[
        str | None, Query(description="Name of a core; the site's first if left out.")
    ] = None,
) -> CoreHandle:
    """The core that a request means. Raises HttpProblemError (404)."""
    cores: Mapping[str, CoreHandle] = request.app.state.cores
    found = cores.get(next(iter(cores)) if core is None else core)
    if found is None:
        raise not_found(f"no core {core!r}; there are: {', '.join(cores)}")
    return found


Core = Annotated[CoreHandle, Depends(core_of)]
Limit = Annotated[int, Query(ge=1, le=PAGE, description="Rows at most.")]
Since = Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="Number of an entry.")]
SpaceFilter = Annotated[
    str | None, Query(pattern=NAME_PATTERN, description="Only of this storage space.")
]
StudyFilter = Annotated[
    str | None, Query(pattern=UID_PATTERN, description="Only of this Study Instance UID.")
]
SpaceName = Annotated[str, Path(pattern=NAME_PATTERN)]
StudyUid = Annotated[str, Path(pattern=UID_PATTERN, description="Study Instance UID.")]


def json_answer(value: object) -> Response:
    """Rows are msgspec structs and go out as they are, without passing validation models."""
    return Response(msgspec.json.encode(value), media_type="application/json")

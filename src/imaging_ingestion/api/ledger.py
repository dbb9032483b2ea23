"""The delivery ledger over HTTP: what is owed, what was refused, and driving it again."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from imaging_ingestion.api.core import (
    LARGEST_NUMBER,
    NAME_PATTERN,
    UID_PATTERN,
    Core,
    Limit,
    StudyFilter,
    json_answer,
)
from imaging_ingestion.api.schemas import answers
from imaging_ingestion.events.broker import ReplayFilter
from imaging_ingestion.manifest import deliveries, ledger
from imaging_ingestion.manifest.ledger import LedgerEntry

router = APIRouter()
State = Literal["pending", "delivered", "dead"]
BindingFilter = Annotated[
    str | None, Query(pattern=NAME_PATTERN, description="Only of this binding.")
]


class Deliveries(msgspec.Struct, frozen=True):
    """A page of the ledger. Go on with `after` = `next`, until that is null."""

    deliveries: list[LedgerEntry]
    next: str | None


class BindingCounts(msgspec.Struct, frozen=True):
    """A binding and its deliveries. One that is not `active` has left the site; its rows stay."""

    name: str
    active: bool
    pending: int
    delivered: int
    dead: int


class Bindings(msgspec.Struct, frozen=True):
    """The bindings by name."""

    bindings: list[BindingCounts]


class Replayed(msgspec.Struct, frozen=True):
    """How many deliveries are due again."""

    replayed: int


class ReplayRequest(BaseModel):
    """Which deliveries to drive again; what is left out is any. The default is dead letters."""

    model_config = ConfigDict(extra="forbid")

    binding: str | None = Field(None, pattern=NAME_PATTERN)
    state: State | None = "dead"
    space: str | None = Field(None, pattern=NAME_PATTERN)
    study_instance_uid: str | None = Field(None, pattern=UID_PATTERN)
    since_seq: int | None = Field(None, ge=0, le=LARGEST_NUMBER)


#: For the OpenAPI document.
ANSWERS = (Deliveries, Bindings, Replayed)


@router.get(
    "/deliveries", summary="The delivery ledger: event x binding", responses=answers(Deliveries)
)
async def get_deliveries(
    core: Core,
    binding: BindingFilter = None,
    state: State | None = None,
    study: StudyFilter = None,
    after: Annotated[
        str | None,
        Query(pattern=r"^[^\x00]{1,253}:[0-9]{1,18}$", description="`next` of the page before."),
    ] = None,
    limit: Limit = 100,
) -> Response:
    key = None
    if after is not None:
        name, _, number = after.rpartition(":")
        key = (name, int(number))
    found = await core.database.read(
        ledger.page,
        binding=binding,
        state=state,
        study_instance_uid=study,
        after=key,
        limit=limit,
    )
    following = f"{found[-1].binding}:{found[-1].seq}" if len(found) == limit else None
    return json_answer(Deliveries(found, following))


@router.get(
    "/bindings",
    summary="The bindings and how many deliveries each has in each state",
    responses=answers(Bindings),
)
async def get_bindings(core: Core) -> Response:
    counts = await core.database.read(ledger.summary)
    nothing = dict.fromkeys(deliveries.STATES, 0)
    return json_answer(
        Bindings(
            [
                BindingCounts(name=name, active=name in core.bindings, **counts.get(name, nothing))
                for name in sorted({*core.bindings, *counts})
            ]
        )
    )


@router.post("/replay", summary="Drive deliveries again", responses=answers(Replayed))
async def post_replay(core: Core, body: ReplayRequest) -> Response:
    count = await core.broker.replay(ReplayFilter(**body.model_dump()))
    return json_answer(Replayed(count))

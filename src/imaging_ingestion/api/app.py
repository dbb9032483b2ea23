"""Our own REST API (OpenAPI at /api/docs): the log, the ledger, revisions, lists.

Every list is read in pages by key. Rows are msgspec structs and go out as they are, without passing
through validation models: `GET /api/changes` is how a consumer catches up, and is to be fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from imaging_ingestion import __version__
from imaging_ingestion.events.broker import Broker, ReplayFilter
from imaging_ingestion.manifest import changes, deliveries, overview, revision
from imaging_ingestion.manifest.changes import Change
from imaging_ingestion.manifest.database import Database

PAGE = 1000
_POLL = 1.0  # seconds between looks for what other processes logged
_STREAM_IDLE = 15.0  # seconds until a comment line keeps the connection alive

Page = Annotated[int, Query(ge=1, le=PAGE, description="Rows at most.")]
Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]


@dataclass(frozen=True, slots=True)
class CoreHandle:
    """What the API needs of one core. `wait_for_commit` waits for a commit of this process."""

    name: str
    database: Database
    broker: Broker
    bindings: tuple[str, ...]
    spaces: tuple[str, ...]
    wait_for_commit: Callable[[float], Awaitable[None]]


class KnownObjectBody(BaseModel):
    """One object by its UID and the SHA-256 of its bytes."""

    sop_instance_uid: str = Field(max_length=64)
    sha256: str = Field(pattern=r"^[0-9A-Fa-f]{64}$")


class KnownObjectsRequest(BaseModel):
    """What a sender has and could send."""

    space: str
    objects: list[KnownObjectBody] = Field(max_length=5000)


class ReplayRequest(BaseModel):
    """Which deliveries to drive again; what is left out is any. The default is dead letters."""

    binding: str | None = None
    state: str | None = Field("dead", pattern="^(pending|delivered|dead)$")
    space: str | None = None
    study_instance_uid: str | None = Field(None, max_length=64)
    since_seq: int | None = None


def create_api(cores: Mapping[str, CoreHandle]) -> FastAPI:
    """The API of a site's cores, to be mounted at /api; without `core` the first one is meant."""
    api = FastAPI(title="imaging-ingestion", version=__version__, docs_url="/docs", redoc_url=None)
    first = next(iter(cores))
    api.state.stopping = asyncio.Event()

    def core_of(core: str | None = Query(None, description="A core's name.")) -> CoreHandle:
        found = cores.get(core or first)
        if found is None:
            raise HTTPException(404, f"no core {core!r}; there are: {', '.join(cores)}")
        return found

    _add_log(api, core_of)
    _add_deliveries(api, core_of)
    _add_revisions(api, core_of)
    _add_lists(api, core_of)
    return api


CoreOf = Callable[..., CoreHandle]


def _add_log(api: FastAPI, core_of: CoreOf) -> None:
    @api.get("/changes", summary="The ordered log after an entry")
    async def get_changes(
        request: Request,
        since: Annotated[int, Query(ge=0)] = 0,
        limit: Page = PAGE,
        kind: Annotated[list[str] | None, Query()] = None,
        space: str | None = None,
        study: str | None = None,
        wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for one.")] = 0,
    ) -> Response:
        core = core_of(request.query_params.get("core"))
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            found = await core.database.read(
                changes.since, since, limit, kinds=kind, space=space, study_instance_uid=study
            )
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0 or api.state.stopping.is_set():
                last = found[-1].seq if found else since
                return _json({"changes": found, "last": last})
            await core.wait_for_commit(min(left, _POLL))

    @api.get("/changes/stream", summary="The ordered log as it grows (server-sent events)")
    async def stream_changes(
        request: Request, since: Annotated[int, Query(ge=0)] = 0, space: str | None = None
    ) -> StreamingResponse:
        core = core_of(request.query_params.get("core"))
        resumed = request.headers.get("last-event-id", "")
        start = int(resumed) if resumed.isdigit() else since
        return StreamingResponse(
            _follow(core, start, space, api.state.stopping), media_type="text/event-stream"
        )


async def _follow(
    core: CoreHandle, position: int, space: str | None, stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Entries as server-sent events; ends when the server stops, and the client comes back."""
    clock = asyncio.get_running_loop().time
    spoken = clock()
    yield b": following\n\n"
    while not stopping.is_set():
        found: list[Change] = await core.database.read(changes.since, position, PAGE, space=space)
        for entry in found:
            position = entry.seq
            yield b"id: %d\ndata: %b\n\n" % (position, msgspec.json.encode(entry))
        if found:
            spoken = clock()
            continue
        if clock() - spoken > _STREAM_IDLE:
            spoken = clock()
            yield b": nothing new\n\n"
        await core.wait_for_commit(_POLL)


def _add_deliveries(api: FastAPI, core_of: CoreOf) -> None:
    @api.get("/deliveries", summary="The delivery ledger: event x binding")
    async def get_deliveries(
        request: Request,
        binding: str | None = None,
        state: Annotated[str | None, Query(pattern="^(pending|delivered|dead)$")] = None,
        study: str | None = None,
        after: Annotated[str | None, Query(pattern=r"^.{1,253}:[0-9]{1,18}$")] = None,
        limit: Page = 100,
    ) -> Response:
        core = core_of(request.query_params.get("core"))
        key = None
        if after is not None:
            name, _, seq = after.rpartition(":")
            key = (name, int(seq))
        found = await core.database.read(
            deliveries.ledger,
            binding=binding,
            state=state,
            study_instance_uid=study,
            after=key,
            limit=limit,
        )
        following = f"{found[-1].binding}:{found[-1].seq}" if len(found) == limit else None
        return _json({"deliveries": found, "next": following})

    @api.get("/bindings", summary="The bindings and how many deliveries each has in each state")
    async def get_bindings(request: Request) -> Response:
        core = core_of(request.query_params.get("core"))
        counts = await core.database.read(deliveries.summary)
        names = sorted({*core.bindings, *counts})
        nothing = dict.fromkeys(deliveries.STATES, 0)
        return _json({"bindings": [{"name": n, **counts.get(n, nothing)} for n in names]})

    @api.post("/replay", summary="Drive deliveries again")
    async def post_replay(request: Request, body: ReplayRequest) -> Response:
        core = core_of(request.query_params.get("core"))
        count = await core.broker.replay(ReplayFilter(**body.model_dump()))
        return _json({"replayed": count})


def _add_revisions(api: FastAPI, core_of: CoreOf) -> None:
    @api.get("/revisions/{space}/{study}", summary="The revisions of a study")
    async def get_revisions(request: Request, space: str, study: Uid) -> Response:
        core = core_of(request.query_params.get("core"))
        found = await core.database.read(revision.numbers, space, study)
        return _json({"revisions": [{"number": number, "at": at} for number, at in found]})

    @api.get("/revisions/{space}/{study}/{number}", summary="The data of a StudyRevisionEvent")
    async def get_revision(
        request: Request, space: str, study: Uid, number: Annotated[int, Path(ge=0)]
    ) -> Response:
        core = core_of(request.query_params.get("core"))
        data = await core.database.read(revision.load, space, study, number)
        if data is None:
            raise HTTPException(404, "the study has no such revision in this space")
        return Response(data, media_type="application/json")


def _add_lists(api: FastAPI, core_of: CoreOf) -> None:
    @api.get("/studies", summary="Studies in the order they came")
    async def get_studies(
        request: Request,
        space: str | None = None,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Page = 100,
    ) -> Response:
        core = core_of(request.query_params.get("core"))
        found = await core.database.read(overview.studies, space=space, after=after, limit=limit)
        return _json({"studies": found, "next": found[-1].id if len(found) == limit else None})

    @api.get("/spaces", summary="The storage spaces")
    async def get_spaces(request: Request) -> Response:
        return _json({"spaces": core_of(request.query_params.get("core")).spaces})

    @api.post("/known-objects", summary="Which objects a space has already, byte for byte")
    async def post_known_objects(request: Request, body: KnownObjectsRequest) -> Response:
        core = core_of(request.query_params.get("core"))
        asked = [overview.KnownObject(o.sop_instance_uid, o.sha256) for o in body.objects]
        known = await core.database.read(overview.known_objects, body.space, asked)
        return _json({"known": known})


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")

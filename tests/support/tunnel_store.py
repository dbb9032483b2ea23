"""C-STORE at both ends of a tunnel: instances made of a number, and a target that checks them."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from storage_peers import destination

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.limits import AssociationLimits
from imaging_ingestion.dimse.command import CStoreRequest, respond
from imaging_ingestion.dimse.requestor import Proposal

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
#: A network that is away for a while is no reason to give up here.
PATIENT = AssociationLimits(response=180.0, idle=180.0, progress=180.0)
_NOISE = Random(4).randbytes(1 << 20)


def instance(number: int, size: int) -> bytes:
    """The data set of an instance: even, and another for each number."""
    start = number * 131 % 4096
    return (number.to_bytes(8, "little") + _NOISE[start:] * (1 + size // len(_NOISE)))[: size & ~1]


@dataclass
class Digests:
    """A storage SCP that keeps the digests of what comes. `flows`: cleared, it reads nothing."""

    arrived: dict[str, str] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    received: int = 0
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    associations: set[Association] = field(default_factory=set)

    async def perform(self, request: IncomingRequest) -> None:
        command = request.command
        assert isinstance(command, CStoreRequest)
        self.associations.add(request.association)
        digest = hashlib.sha256()
        async for piece in request.data_set():
            await self.flows.wait()
            digest.update(piece)
            self.received += len(piece)
        uid = command.affected_sop_instance_uid
        self.arrived[uid] = digest.hexdigest()
        self.times[uid] += 1
        await request.respond(respond(command, 0))

    def assert_all(self, numbers: range, size: int) -> None:
        """Each of them came once, with every byte."""
        assert self.times == Counter({uid_of(number): 1 for number in numbers})
        for number in numbers:
            wanted = hashlib.sha256(instance(number, size)).hexdigest()
            assert self.arrived[uid_of(number)] == wanted, number


def uid_of(number: int) -> str:
    return f"1.2.3.{number}"


@asynccontextmanager
async def digests() -> AsyncIterator[tuple[Digests, int]]:
    """The target, and its port."""
    collector = Digests()
    collector.flows.set()
    async with destination(collector, "TARGET") as (where, _):  # type: ignore[arg-type]
        yield collector, where.port


@asynccontextmanager
async def sender(port: int) -> AsyncIterator[Association]:
    """An association for CT images, released in the end."""
    association = await connect(
        "127.0.0.1",
        port,
        [Proposal(CT, (EXPLICIT,))],
        called_ae_title="TARGET",
        calling_ae_title="SENDER",
        settings=ConnectSettings(limits=PATIENT),
    )
    try:
        yield association
    finally:
        if association.is_open:
            await association.release()


async def store(association: Association, number: int, size: int) -> int:
    """Store one instance; the status."""
    context = association.agreement.context_for(CT)
    assert context is not None
    request = CStoreRequest(
        message_id=0, affected_sop_class_uid=CT, affected_sop_instance_uid=uid_of(number)
    )
    status = -1
    async for answer in association.request(context.context_id, request, instance(number, size)):
        status = answer.response.status
    return status

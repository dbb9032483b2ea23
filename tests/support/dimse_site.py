"""One real space whose C-ECHO and C-STORE listen on a loopback port."""

from __future__ import annotations

import asyncio
import io
import os
import struct
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pydicom
import pydicom.data
from instances import with_uids
from raw_peer import store_request
from stow_site import StowSite, stow_site

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.config import StorageContexts
from imaging_ingestion.association.connect import ConnectSettings, connect
from imaging_ingestion.association.listener import Listener, ListenerSettings, Verifier
from imaging_ingestion.association.policy import IngestionServices, ingestion_policy
from imaging_ingestion.association.tls import TlsContexts
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dimse.acceptor import AcceptorPolicy
from imaging_ingestion.dimse.command import Response
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import VERIFICATION
from imaging_ingestion.intake import IntakeSettings

AE_TITLE = "INGESTION"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
CT = Proposal(CT_IMAGE_STORAGE, (EXPLICIT,))
ECHO = Proposal(VERIFICATION, (IMPLICIT,))
TOOL_TIMEOUT = 120.0  # seconds
CT_SMALL = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))


@dataclass(frozen=True)
class Sent:
    """An instance as a C-STORE takes it."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes = field(repr=False)


@dataclass
class DimseSite:
    """A space named `default` that listens at `port` (and, for TLS, at `tls_port`)."""

    site: StowSite
    listener: Listener
    port: int
    tls_port: int

    async def call(
        self, *proposals: Proposal, settings: ConnectSettings | None = None
    ) -> Association:
        """An association with it, by our own requestor."""
        tls = settings is not None and settings.tls is not None
        return await connect(
            "127.0.0.1",
            self.tls_port if tls else self.port,
            proposals,
            called_ae_title=AE_TITLE,
            calling_ae_title="TEST",
            settings=settings,
        )

    async def data_set_of(self, sop_instance: str) -> bytes:
        """The data set of an instance as it lies in the space."""
        name = (await self.site.recorded())[sop_instance].object_name
        return data_set_of(await asyncio.to_thread((self.site.root / name).read_bytes))

    async def assert_serves(self, number: int = 999) -> None:
        """It still stores for others."""
        sent = ct(number=number)
        association = await self.call(CT)
        response = await store(association, sent)
        assert response.status == 0, response
        await association.release()
        assert await self.data_set_of(sent.sop_instance) == sent.data_set

    async def storescu(self, sent: Sent, *options: str) -> tuple[int, str]:
        """Store by dcmtk's storescu; its exit code and what it said."""
        file = self.site.root.parent / f"{sent.sop_instance}.dcm"
        await asyncio.to_thread(file.write_bytes, part10(sent))
        return await tool("storescu", *options, "-aec", AE_TITLE, "127.0.0.1", self.port, file)


async def store(association: Association, sent: Sent) -> Response:
    """Store one instance; the answer."""
    context = association.agreement.context_for(sent.sop_class, sent.transfer_syntax)
    assert context is not None
    request = store_request(sent.sop_class, sent.sop_instance)
    async with aclosing(association.request(context.context_id, request, sent.data_set)) as answers:
        (answer,) = [answer async for answer in answers]
    assert answer.data_set is None
    return answer.response


#: Makes the policy of a listener from its services.
Policy = Callable[[IngestionServices], AcceptorPolicy]


def policy(
    storage: StorageContexts | None = None,
    *,
    calling_ae_titles: frozenset[str] | None = None,
    kinds: frozenset[int] = frozenset(),
    operations: int = 1,
) -> Policy:
    """As a site has it; with an identity that must be verified, if there are `kinds` of it."""
    return partial(
        ingestion_policy,
        ae_title=AE_TITLE,
        storage=storage,
        calling_ae_titles=calling_ae_titles,
        verified_identity_kinds=kinds,
        identity_required=bool(kinds),
        operations=operations,
    )


@asynccontextmanager
async def dimse_site(
    folder: Path,
    *,
    acceptor: Policy | None = None,
    settings: ListenerSettings | None = None,
    intake: IntakeSettings | None = None,
    tls: TlsContexts | None = None,
    verify: Verifier | None = None,
    database_url: str | None = None,
) -> AsyncIterator[DimseSite]:
    """The services over a fresh space in `folder`, stopped at the end."""
    async with stow_site(folder, intake=intake, database_url=database_url) as site:
        services = IngestionServices(site.service.intake, "test")
        accepting = (acceptor or policy())(services)
        listener = Listener(accepting, services.performers(), settings, verify=verify)
        try:
            port = await listener.listen("127.0.0.1", 0)
            tls_port = await listener.listen("127.0.0.1", 0, tls=tls) if tls else 0
            yield DimseSite(site, listener, port, tls_port)
        finally:
            await listener.stop()


def ct(source: Path = CT_SMALL, number: int = 1) -> Sent:
    """A CT image under UIDs of its own, in explicit VR little endian."""
    root = "1.2.826.0.1.3680043.8.498.7"
    sop_instance = f"{root}.1.1.{number}"
    whole = with_uids(source, f"{root}.1", f"{root}.1.1", sop_instance)
    return Sent(CT_IMAGE_STORAGE, sop_instance, EXPLICIT, data_set_of(whole))


def data_set_of(part10_file: bytes) -> bytes:
    """What follows the file meta information of a file."""
    assert part10_file[128:132] == b"DICM"
    (length,) = struct.unpack_from("<L", part10_file, 140)
    return part10_file[144 + length :]


def part10(sent: Sent) -> bytes:
    """As a file, for tools that send files."""
    return file_meta(sent.sop_class, sent.sop_instance, sent.transfer_syntax) + sent.data_set


def elements(data_set: bytes, transfer_syntax: str = EXPLICIT) -> pydicom.Dataset:
    """A data set without group lengths and padding, which dcmtk leaves out."""
    sent = Sent(CT_IMAGE_STORAGE, "1.2.3", transfer_syntax, data_set)
    dataset = pydicom.dcmread(io.BytesIO(part10(sent)))
    for element in list(dataset):
        if element.tag.element == 0 or element.tag == 0xFFFCFFFC:
            del dataset[element.tag]
    return dataset


async def tool(*command: object, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run somebody else's tool; its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | (env or {}),
    )
    try:
        async with asyncio.timeout(TOOL_TIMEOUT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode("utf-8", "replace")

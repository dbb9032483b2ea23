"""Sending files to a C-STORE SCP: several associations, each file in the transfer syntax it is in.

Every file that is given comes back in exactly one report. What may pass is tried again; when the
peer is gone, or says what it would say to every association, the rest fails at once with its word.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Self

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import (
    AssociationError,
    AssociationRejectedError,
    NotConnectedError,
)
from imaging_ingestion.association.store_user import Kind, context_for, store
from imaging_ingestion.bindings.association_pool import AssociationPool, StoreTarget
from imaging_ingestion.cli.collect import DicomFile, lanes
from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer
from imaging_ingestion.cli.dimse.session import silence
from imaging_ingestion.cli.store_result import Sent, State
from imaging_ingestion.cli.stow_client import WAITS, Report, UnreachableError
from imaging_ingestion.dicom import failure_reason
from imaging_ingestion.dicom.dictionary import transfer_syntax_name
from imaging_ingestion.dicom.transcode import TranscodeError
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CStoreRequest
from imaging_ingestion.dimse.status import Service, StatusKind, describe, kind_of
from imaging_ingestion.transcoding.transcoder import Transcoder
from imaging_ingestion.transcoding.worker_pool import WorkerError

_PIECE: Final = 1 << 18  # bytes


class _TryAgainError(Exception):
    """The file may be taken another time; the message says what happened.

    `error` is what happened to the association, if it was that.
    """

    def __init__(self, message: str, error: AssociationError | None = None) -> None:
        super().__init__(message)
        self.error = error


class _HopelessError(Exception):
    """No file will be taken; the message says why."""


class CStoreClient:
    """Sends files to one peer. An asynchronous context: entering it asks for an association."""

    def __init__(
        self,
        peer: Peer,
        options: DimseOptions,
        *,
        concurrency: int,
        waits: Sequence[float] = WAITS,
    ) -> None:
        """`waits` are the seconds before each try. Raises UsageError."""
        self._peer = peer
        self._concurrency = concurrency
        self._waits = waits
        self._transcoder = Transcoder()
        self._pool = AssociationPool(
            StoreTarget(
                peer.host, peer.port, peer.ae_title, options.aet, options.connect_settings()
            ),
            self._transcoder,
            size=concurrency,
        )
        #: Why nothing more is sent.
        self._given_up: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._pool.close()
        await self._transcoder.close()

    async def send(self, files: Sequence[DicomFile], report: Report) -> None:
        """Send files and report what becomes of each; the order of a lane is kept.

        Raises UnreachableError if there is nobody to send to.
        """
        waiting = lanes(files)
        self._pool.expect(kind for file in reversed(files) if (kind := _kind(file)) is not None)
        await self._greet(files)
        lane = iter(waiting)

        async def work() -> None:
            for mine in lane:
                for file in mine:
                    report(await self._send(file))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._concurrency, len(waiting))):
                tasks.create_task(work())

    async def _greet(self, files: Sequence[DicomFile]) -> None:
        kind = next((kind for file in files if (kind := _kind(file)) is not None), None)
        if kind is None:
            return
        try:
            async with self._pool.association(kind):
                return
        except AssociationError as error:
            raise UnreachableError(f"{self._peer}: {_told(error)}") from error

    async def _send(self, file: DicomFile) -> Sent:
        """Send one file, once more and again while that may help."""
        kind = _kind(file)
        if kind is None:
            return Sent(file, State.FAILED, "it says no SOP Class UID or SOP Instance UID")
        problem = _TryAgainError("")
        for wait in self._waits:
            await asyncio.sleep(wait)
            if self._given_up is not None:
                return Sent(file, State.FAILED, self._given_up)
            try:
                return await self._try(file, kind, new=problem.error is not None)
            except _TryAgainError as error:
                problem = error
            except _HopelessError as error:
                self._given_up = str(error)
                return Sent(file, State.FAILED, str(error))
        if isinstance(problem.error, NotConnectedError):  # so it would be with any other file
            self._given_up = str(problem)
        return Sent(file, State.FAILED, str(problem))

    async def _try(self, file: DicomFile, kind: Kind, *, new: bool) -> Sent:
        try:
            async with self._pool.association(kind, new=new) as pooled:
                return await self._store(pooled.association, file, kind)
        except AssociationRejectedError as error:
            if error.is_transient:
                raise _TryAgainError(_told(error), error) from error
            raise _HopelessError(_told(error)) from error
        except AssociationError as error:
            raise _TryAgainError(_told(error), error) from error
        except (TranscodeError, WorkerError) as error:
            return Sent(file, State.FAILED, f"it cannot be transcoded: {error}")
        except OSError as error:
            return Sent(file, State.FAILED, error.strerror or str(error))

    async def _store(self, association: Association, file: DicomFile, kind: Kind) -> Sent:
        context = context_for(association.agreement, kind, self._transcoder)
        if context is None:
            return Sent(file, State.FAILED, _no_context(association, kind))
        request = CStoreRequest(
            message_id=0,  # the association gives it one
            affected_sop_class_uid=kind[0],
            affected_sop_instance_uid=file.sop_instance_uid or "",
        )
        async with aclosing(_data_set(file)) as pieces:
            response = await store(association, context, request, pieces, kind[1], self._transcoder)
        told = describe(response.status, Service.C_STORE)
        if response.error_comment:
            told = f"{told}: {response.error_comment}"
        match kind_of(response.status):
            case StatusKind.SUCCESS:
                return Sent(file, State.STORED)
            case StatusKind.WARNING:
                held = response.status == failure_reason.KEPT_ASIDE
                return Sent(file, State.KEPT_ASIDE if held else State.STORED, told)
        if response.status >> 8 == 0xA7 or response.status == status.PROCESSING_FAILURE:
            raise _TryAgainError(told)
        return Sent(file, State.FAILED, told)


def cstore_client(to: str, options: DimseOptions | None, *, concurrency: int) -> CStoreClient:
    """A client for `AE@host:port`. Raises UsageError."""
    silence()
    return CStoreClient(Peer.parse(to), options or DimseOptions(), concurrency=concurrency)


def _kind(file: DicomFile) -> Kind | None:
    """What has to be negotiated for a file; None if it cannot be sent."""
    if file.sop_class_uid is None or file.transfer_syntax_uid is None:
        return None
    return None if not file.sop_instance_uid else (file.sop_class_uid, file.transfer_syntax_uid)


async def _data_set(file: DicomFile) -> AsyncGenerator[bytes, None]:
    """The data set, without preamble and file meta. Raises OSError."""
    opened = await asyncio.to_thread(file.path.open, "rb")
    with opened:
        found = os.fstat(opened.fileno())
        if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
            raise OSError("the file has changed since it was looked at")
        opened.seek(file.data_set_offset)
        while piece := await asyncio.to_thread(opened.read, _PIECE):
            yield piece


def _no_context(association: Association, kind: Kind) -> str:
    sop_class, syntax = kind
    if not association.agreement.transfer_syntaxes_for(sop_class):
        return f"the peer accepts no instances of SOP class {sop_class}"
    return f"the peer does not accept {transfer_syntax_name(syntax) or syntax} for its SOP class"


def _told(error: AssociationError) -> str:
    prefix = "association " if isinstance(error, AssociationRejectedError) else ""
    return f"{prefix}{error}"

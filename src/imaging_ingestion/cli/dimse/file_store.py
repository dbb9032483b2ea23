"""Storage SCP of `get`: each instance into a file of its own (PS3.10)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.cli.dimse.peer import UsageError
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.uid import InvalidUidError, check_uid
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CStoreRequest, respond


class FileStore:
    """Writes instances to a folder, named by their SOP Instance UID."""

    def __init__(self, folder: Path) -> None:
        #: By SOP Instance UID.
        self.files: dict[str, Path] = {}
        #: Why something could not be written.
        self.problem: str | None = None
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder. Raises UsageError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self._folder}: {error.strerror}") from error

    async def perform(self, request: IncomingRequest) -> None:
        """Answer one C-STORE-RQ."""
        command = request.command
        if not isinstance(command, CStoreRequest):
            await request.respond(respond(command, status.UNRECOGNIZED_OPERATION))
            return
        try:
            # It becomes the name of a file.
            uid = check_uid(command.affected_sop_instance_uid).uid
            sop_class = check_uid(command.affected_sop_class_uid).uid
        except InvalidUidError as error:
            answer = respond(command, status.INVALID_SOP_INSTANCE, error_comment=str(error))
            await request.respond(answer)
            return
        meta = file_meta(sop_class, uid, request.context.transfer_syntax)
        try:
            self.files[uid] = await self._write(f"{uid}.dcm", meta, request)
        except OSError as error:
            self.problem = f"{self._folder}: {error.strerror}"
            answer = respond(command, status.STORE_OUT_OF_RESOURCES, error_comment=error.strerror)
            await request.respond(answer)
            return
        await request.respond(respond(command, status.SUCCESS))

    async def _write(self, name: str, meta: bytes, request: IncomingRequest) -> Path:
        """A file is there whole or not at all. Raises OSError, AssociationError."""
        path, partial = self._folder / name, self._folder / f".{name}.part"
        try:
            with partial.open("wb") as file:
                file.write(meta)
                async for piece in request.data_set():
                    await asyncio.to_thread(file.write, piece)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return path

"""What the manifest is told of an instance, however it was come by: by a sender, or in a space."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import zstandard

from imaging_ingestion.dicom.header import Header
from imaging_ingestion.events.stored import ConflictPolicy, PatientConflictPolicy, StoredInstance
from imaging_ingestion.intake.identity import Identity
from imaging_ingestion.manifest.attributes import Columns, columns_of

COMPRESSION_LEVEL = 1
#: Bytes of a header that the event loop is not kept busy with.
LARGE_HEADER: Final = 1 << 20
#: Larger ones that are scanned at a time.
LARGE_HEADERS: Final = 4


@dataclass(frozen=True, slots=True)
class Description:
    """An instance's identity and attributes, without its object."""

    identity: Identity
    transfer_syntax_uid: str
    columns: Columns
    metadata_zstd: bytes

    def stored(
        self,
        *,
        space: str,
        provider: str,
        object_name: str,
        object_size: int,
        sha256: bytes,
        conflict_policy: ConflictPolicy = ConflictPolicy.REPLACE,
        patient_conflict_policy: PatientConflictPolicy = PatientConflictPolicy.ACCEPT,
        traceparent: str | None = None,
        stored_at: int | None = None,
    ) -> StoredInstance:
        """The instance with the object it is in: `object_size` in bytes, `sha256` of all of it.

        `stored_at` is None if it is being stored now.
        """
        return StoredInstance(
            space=space,
            provider=provider,
            study_instance_uid=self.identity.study_instance_uid,
            series_instance_uid=self.identity.series_instance_uid,
            sop_instance_uid=self.identity.sop_instance_uid,
            sop_class_uid=self.identity.sop_class_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            object_name=object_name,
            object_size=object_size,
            sha256=sha256,
            study=self.columns.study,
            series=self.columns.series,
            instance=self.columns.instance,
            metadata_zstd=self.metadata_zstd,
            conflict_policy=conflict_policy,
            patient_conflict_policy=patient_conflict_policy,
            traceparent=traceparent,
            stored_at=stored_at,
        )


class Describer:
    """Describes instances, for one event loop.

    Whoever scans a header that turns out larger than `LARGE_HEADER` holds one of `large_headers`.
    """

    def __init__(self) -> None:
        self.large_headers = asyncio.Semaphore(LARGE_HEADERS)
        # A compressor serves one thread at a time: ours is for the event loop, where a header costs
        # 0.1 ms; a large one gets its own, in another thread.
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)

    async def describe(self, header: Header, identity: Identity) -> Description:
        """Describe an instance of which `identity` was found in `header`."""
        return Description(
            identity,
            header.transfer_syntax_uid,
            columns_of(header),
            await self._compress(header.json),
        )

    async def _compress(self, json: bytes) -> bytes:
        if len(json) <= LARGE_HEADER:
            return self._compressor.compress(json)
        compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        return await asyncio.to_thread(compressor.compress, json)

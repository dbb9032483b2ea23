"""The study binding to a FHIR R4 server: one ImagingStudy for each study, as it is now.

A delivery is not "send this revision" but "make the server agree with the manifest". The server's
resource is read first, the manifest's latest revision after it, and the resource is replaced only
if it still is the one that was read (If-Match). So whatever the server had came from a revision no
later than the one that is written, and an old event, a repeated one, or two at once never put an
older state over a newer one (F13 to F15).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from imaging_ingestion.bindings.fhir.codes import is_uri
from imaging_ingestion.bindings.fhir.identifiers import study_uid
from imaging_ingestion.bindings.fhir.imaging_study import (
    WITHDRAWN,
    MappingSettings,
    map_revision,
)
from imaging_ingestion.bindings.fhir.reconcile import subject_is_settled, updated
from imaging_ingestion.bindings.fhir.server import FhirServer, RacedError
from imaging_ingestion.bindings.fhir.times import zone_of
from imaging_ingestion.bindings.http_target import HttpTarget
from imaging_ingestion.events.broker import Delivered, RefusedError, TryAgainError
from imaging_ingestion.events.model import Event, StudyRevision
from imaging_ingestion.manifest import revision
from imaging_ingestion.manifest.database import Database

#: How often a delivery looks again at once when another changed the study in between.
ATTEMPTS = 5


class FhirBinding:
    """Delivers study revisions to one FHIR server."""

    def __init__(
        self,
        target: HttpTarget,
        database: Database,
        *,
        endpoint: str | None,
        imaging_study_endpoint: str | None,
        mapping: MappingSettings | None = None,
    ) -> None:
        """Deliver to `endpoint`, the base URL of a server.

        `imaging_study_endpoint` is the URL of its ImagingStudy resources, for a server that takes
        nothing else: then patients are told inside the studies.

        Raises ValueError if neither is given, or both and they disagree.
        """
        base = endpoint.rstrip("/") if endpoint else None
        studies = imaging_study_endpoint.rstrip("/") if imaging_study_endpoint else None
        if base is None and studies is None:
            raise ValueError("FHIR_ENDPOINT or IMAGINGSTUDY_ENDPOINT is needed")
        if base is not None and studies not in {None, f"{base}/ImagingStudy"}:
            raise ValueError(
                "IMAGINGSTUDY_ENDPOINT is not FHIR_ENDPOINT/ImagingStudy: give one of the two"
            )
        self._target = target
        self._database = database
        self._base = base
        self._studies = studies or f"{base}/ImagingStudy"
        self._mapping = mapping or MappingSettings()

    async def deliver(self, event: Event) -> Delivered:
        """Make the server agree with the manifest. Raises TryAgainError, RefusedError."""
        announced = _announced(event)
        uid = event.study_instance_uid or (announced and announced.study.study_instance_uid)
        if not uid:
            raise RefusedError("the event names no study")
        server = FhirServer(self._target, self._base, self._studies, event.traceparent)
        key: str | None = None
        for _ in range(ATTEMPTS):
            try:
                return await self._agree(server, event, announced, uid, key)
            except RacedError as raced:
                key = raced.key
        raise TryAgainError(f"the study was changed by others {ATTEMPTS} times in a row")

    async def _agree(
        self,
        server: FhirServer,
        event: Event,
        announced: StudyRevision | None,
        uid: str,
        key: str | None,
    ) -> Delivered:
        """One attempt. Raises RacedError if another changed the study in between."""
        identifier = study_uid(uid)
        existing = await server.read(key) if key else None
        if existing is None:
            existing = await server.find(identifier)
        latest = await self._latest(event, announced, uid)  # after the server's, see above
        try:
            # In a thread: a study of many thousand instances takes a while, and others are served.
            study, patient = await asyncio.to_thread(
                map_revision, latest, self._mapping, contain_patient=self._base is None
            )
        except msgspec.DecodeError as error:
            raise RefusedError(f"the revision's attributes are no DICOM JSON: {error}") from error
        if existing is None:
            if study["status"] == WITHDRAWN:
                return Delivered("nothing to withdraw: the server does not have the study")
            done = await server.create(study, identifier, patient)
        else:
            wanted = await asyncio.to_thread(updated, existing, study)
            if wanted is existing:
                return Delivered(f"unchanged ImagingStudy/{existing.get('id')}")
            settled = subject_is_settled(existing, study)
            done = await server.update(wanted, None if settled else patient)
        return Delivered(f"{done}, revision {latest.revision}")

    async def _latest(
        self, event: Event, announced: StudyRevision | None, uid: str
    ) -> StudyRevision:
        """The manifest's word on a study; the event's own, if it came from elsewhere (E10)."""
        space = event.space or (announced.study.space if announced else "")
        stored = await self._database.read(revision.load, space, uid)
        if stored is not None:
            return msgspec.json.decode(stored, type=StudyRevision)
        if announced is None:
            raise RefusedError("neither the event nor the manifest has the study's revision")
        return announced


def mapping_settings(
    time_zone: str | None,
    patient_id_system: str | None,
    addresses: Mapping[str, str] | None = None,
) -> MappingSettings:
    """The mapping's settings as a site declares them. Raises ValueError with the setting's name."""
    if patient_id_system is not None and not is_uri(patient_id_system):
        raise ValueError(f"FHIR_PATIENT_ID_SYSTEM: a URI was expected, found {patient_id_system!r}")
    try:
        return MappingSettings(
            zone_of(time_zone or "UTC"), patient_id_system, dict(addresses or {})
        )
    except ValueError as error:
        raise ValueError(f"FHIR_TIME_ZONE: {error}") from error


def _announced(event: Event) -> StudyRevision | None:
    """The revision that the event carries, if it does. Raises RefusedError."""
    if event.data is None:
        return None
    try:
        return msgspec.json.decode(event.data, type=StudyRevision)
    except msgspec.DecodeError as error:
        raise RefusedError(f"the event is no StudyRevisionEvent: {error}") from error

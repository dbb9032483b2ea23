"""The instance binding to a C-STORE target: every available instance is stored there too.

The object's data set streams from its space as it is stored; another transfer syntax is made only
where the target refuses that one, and loses nothing. As with STOW, the instance that goes is the
one the manifest has now, and one that was deleted needs no delivery.

What the answer means for the delivery is `judge`. A target that cannot be reached, rejects the
association or breaks it off has said nothing of the instance, so that is tried again, also where it
does not know an AE title: somebody has to mend that, and then it goes on by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from imaging_ingestion.association.error import (
    AssociationError,
    AssociationRejectedError,
    PeerTimeoutError,
)
from imaging_ingestion.association.services.stored_data_set import StoredDataSet
from imaging_ingestion.association.services.transcoder import Transcoder
from imaging_ingestion.association.store_user import context_for, store
from imaging_ingestion.bindings.association_pool import AssociationPool, Pooled
from imaging_ingestion.dicom.dictionary import transfer_syntax_name
from imaging_ingestion.dicom.transcode import TranscodeError
from imaging_ingestion.dimse import status
from imaging_ingestion.dimse.command import CStoreRequest, Response
from imaging_ingestion.dimse.status import Service, StatusKind, describe, kind_of
from imaging_ingestion.events.broker import Delivered, RefusedError, TryAgainError
from imaging_ingestion.events.model import Event
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance, live_instance
from imaging_ingestion.manifest.stored_object import InstanceGoneError, ObjectUnavailableError
from imaging_ingestion.storage.space import Space
from imaging_ingestion.transcoding.transcoder import Transcoder as ClosableTranscoder
from imaging_ingestion.transcoding.worker_pool import WorkerError

_GONE: Final = "gone: the instance was deleted before it could be delivered"
#: Failures that say nothing of the instance, and may pass (PS3.7 annex C, PS3.4 table B.2-1).
_FOR_NOW: Final = frozenset(
    {
        status.PROCESSING_FAILURE,
        status.DUPLICATE_INVOCATION,
        status.RESOURCE_LIMITATION,
        status.CANCEL,
    }
)


class CStoreTarget:
    """What a binding keeps open: associations, and processes that transcode."""

    def __init__(self, pool: AssociationPool, transcoder: ClosableTranscoder | None) -> None:
        self.pool = pool
        self.transcoder: Transcoder | None = transcoder
        self._transcoder = transcoder

    async def close(self) -> None:
        """Release the associations and end the processes."""
        await self.pool.close()
        if self._transcoder is not None:
            await self._transcoder.close()


class CStoreBinding:
    """Delivers instances to one application entity."""

    def __init__(
        self, target: CStoreTarget, database: Database, spaces: Mapping[str, Space]
    ) -> None:
        self._target = target
        self._database = database
        self._spaces = spaces

    async def deliver(self, event: Event) -> Delivered:
        """Store the instance of a DicomAvailableEvent. Raises TryAgainError, RefusedError."""
        space = self._spaces.get(event.space)
        if space is None:
            raise RefusedError(f"the space {event.space!r} is not part of this site any more")
        if event.sop_instance_uid is None:
            raise RefusedError("the event names no instance")
        instance = await self._database.read(live_instance, event.space, event.sop_instance_uid)
        if instance is None:
            return Delivered(_GONE)
        try:
            stored = await StoredDataSet.open(space, self._database, instance)
        except InstanceGoneError:
            return Delivered(_GONE)
        except ObjectUnavailableError as error:
            raise TryAgainError(str(error)) from error
        except OSError as error:
            raise TryAgainError(f"the object cannot be read: {error.strerror}") from error
        try:
            return judge(await self._send(stored))
        finally:
            await stored.close()

    async def _send(self, stored: StoredDataSet) -> Response:
        """Send it, once more if an association that was kept open turns out to have ended."""
        instance = stored.instance
        kind = (instance.sop_class_uid, instance.transfer_syntax_uid)
        for again in (False, True):
            was_kept = False
            try:
                async with self._target.pool.association(kind, new=again) as pooled:
                    was_kept = not pooled.is_new
                    return await self._store(pooled, stored)
            except AssociationRejectedError as error:
                raise TryAgainError(f"association {error}") from error
            except AssociationError as error:
                if again or not was_kept or isinstance(error, PeerTimeoutError):
                    raise TryAgainError(str(error)) from error
            except TranscodeError as error:
                raise RefusedError(f"it cannot be transcoded: {error}") from error
            except WorkerError as error:
                raise TryAgainError(f"it cannot be transcoded now: {error}") from error
            except OSError as error:
                raise TryAgainError(f"the object cannot be read: {error.strerror}") from error
        raise AssertionError("the second try returns or raises")

    async def _store(self, pooled: Pooled, stored: StoredDataSet) -> Response:
        instance = stored.instance
        association, transcoder = pooled.association, self._target.transcoder
        kind = (instance.sop_class_uid, instance.transfer_syntax_uid)
        context = context_for(association.agreement, kind, transcoder)
        if context is None:
            raise RefusedError(_no_context(pooled, instance))
        request = CStoreRequest(
            message_id=0,  # the association gives it one
            affected_sop_class_uid=instance.sop_class_uid,
            affected_sop_instance_uid=instance.sop_instance_uid,
        )
        return await store(
            association,
            context,
            request,
            stored.stream(),
            instance.transfer_syntax_uid,
            transcoder,
        )


def judge(response: Response) -> Delivered:
    """What the target's answer means for the delivery. Raises TryAgainError, RefusedError."""
    code = response.status
    told = describe(code, Service.C_STORE)
    if response.error_comment:
        told = f"{told}: {response.error_comment}"
    if kind_of(code) in (StatusKind.SUCCESS, StatusKind.WARNING):
        return Delivered(told)
    if code >> 8 == 0xA7 or code in _FOR_NOW:
        raise TryAgainError(told)
    raise RefusedError(told)


def _no_context(pooled: Pooled, instance: Instance) -> str:
    accepted = pooled.association.agreement.transfer_syntaxes_for(instance.sop_class_uid)
    uid = instance.transfer_syntax_uid
    name = transfer_syntax_name(uid) or uid
    if not accepted:
        return f"the target accepts no instances of SOP class {instance.sop_class_uid}"
    return f"the target accepts SOP class {instance.sop_class_uid}, but not in {name}"

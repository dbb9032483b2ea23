"""The object of an instance, as the manifest knows the instance now.

For everybody who gives instances out: WADO-RS, C-MOVE and C-GET, and who vouches for them.
"""

from __future__ import annotations

import structlog

from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.retrieve import Instance, live_instance
from imaging_ingestion.storage.space import ObjectMissingError, ObjectReader, Space

log = structlog.get_logger(__name__)

#: An object replaced while it is being looked up is looked up again, this often.
_ATTEMPTS = 4


class ObjectUnavailableError(RuntimeError):
    """The manifest has the instance, but its object is missing or is not what it should be.

    The message names the SOP Instance UID; the log has it too.
    """


class InstanceGoneError(LookupError):
    """The instance was deleted, or went elsewhere, while it was being retrieved."""


async def open_object(
    space: Space, database: Database, instance: Instance
) -> tuple[Instance, ObjectReader]:
    """Open an instance's object, and the instance as it is now.

    An object that is not there has been replaced or deleted since its row was read: the row is read
    again. Raises InstanceGoneError and ObjectUnavailableError.
    """
    for _ in range(_ATTEMPTS):
        try:
            reader = await space.open(instance.object_name)
        except ObjectMissingError:
            current = await database.read(live_instance, space.name, instance.sop_instance_uid)
            if current is None or not _same_place(instance, current):
                raise InstanceGoneError from None
            if current.object_name == instance.object_name:
                break
            instance = current
            continue
        if reader.size != instance.object_size:
            await reader.close()
            raise unavailable(
                space, instance, f"has {reader.size} bytes instead of {instance.object_size}"
            )
        return instance, reader
    raise unavailable(space, instance, "is missing")


def unavailable(space: Space, instance: Instance, what: str) -> ObjectUnavailableError:
    """The error for an object that `what` says the fault of, which is logged."""
    log.error(
        "object.unavailable",
        space=space.name,
        sop_instance_uid=instance.sop_instance_uid,
        what=what,
    )
    return ObjectUnavailableError(
        f"the object of instance {instance.sop_instance_uid} {what}; `imaging-ingestion check` "
        "compares the space with the manifest"
    )


def _same_place(instance: Instance, current: Instance) -> bool:
    return (
        current.study_instance_uid == instance.study_instance_uid
        and current.series_instance_uid == instance.series_instance_uid
    )

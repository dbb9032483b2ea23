"""Deleting studies, series and instances of a core: whoever asks for it, it goes this way."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import structlog

from imaging_ingestion.manifest import deletion
from imaging_ingestion.manifest.database import Database

log = structlog.get_logger(__name__)


class Deletion:
    """Deletes from the spaces of one core."""

    def __init__(
        self,
        database: Database,
        revisioning_delay: timedelta,
        on_commit: Callable[[], None],
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_commit` is called after each deletion; `clock` gives nanoseconds since the epoch."""
        self._database = database
        self._delay_us = revisioning_delay // timedelta(microseconds=1)
        self._on_commit = on_commit
        self._clock = clock

    async def delete(
        self,
        space: str,
        study_instance_uid: str,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        *,
        why: str,
    ) -> int:
        """Delete a study, one of its series or one instance; how many instances that were.

        `why` is for the log. It is durable when this returns. Raises UnknownResourceError, and what
        the database raises.
        """
        deleted = await self._database.write(
            deletion.delete,
            space,
            study_instance_uid,
            series_instance_uid,
            sop_instance_uid,
            self._clock() // 1000,
            self._delay_us,
        )
        log.info(
            "instances.deleted",
            space=space,
            study_instance_uid=study_instance_uid,
            number=deleted,
            why=why,
        )
        self._on_commit()
        return deleted

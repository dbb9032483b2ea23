"""The spaces of a site: folders, and buckets of object stores."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from imaging_ingestion.resources.plan import SitePlan, SpacePlan
from imaging_ingestion.resources.site_file import SiteError
from imaging_ingestion.storage.directory import DirectorySpace

if TYPE_CHECKING:
    from imaging_ingestion.storage.cloud import CloudSpace
    from imaging_ingestion.storage.cloud_settings import CloudSettings

log = structlog.get_logger(__name__)

#: Seconds that a bucket has to answer at the start, before that is told.
_PROBE: Final = 5.0

Buckets = Mapping[str, "CloudSettings"]


def read_buckets(plan: SitePlan) -> Buckets:
    """Where the spaces in object stores are, by space. Raises SiteError."""
    spaces = [space for core in plan.cores for space in core.spaces if space.bucket]
    if not spaces:
        return {}
    from imaging_ingestion.storage.cloud_settings import CloudSettingsError, cloud_settings

    found: dict[str, CloudSettings] = {}
    problems: list[str] = []
    taken: dict[tuple[object, ...], str] = {}
    for space in spaces:
        values = {key: value.get_secret_value() for key, value in space.bucket.items()}
        try:
            settings = cloud_settings(values)
        except CloudSettingsError as error:
            problems += [f"space {space.name}: {key}: {what}" for key, what in error.problems]
            continue
        assert settings is not None
        where = (type(settings), settings.endpoint, settings.bucket, settings.prefix)
        if where in taken:
            problems.append(
                f"the spaces {taken[where]} and {space.name} share a {settings.place}: each needs "
                "a BUCKET_PREFIX of its own"
            )
        taken.setdefault(where, space.name)
        found[space.name] = settings
    if problems:
        raise SiteError(problems)
    return found


async def open_space(plan: SpacePlan, data: Path, buckets: Buckets) -> DirectorySpace | CloudSpace:
    """A space, to be closed at the end. Raises SiteError, OSError if a folder cannot be used."""
    settings = buckets.get(plan.name)
    if settings is None:
        return DirectorySpace(plan.name, data / plan.directory)
    from imaging_ingestion.storage.open_space import open_space as open_bucket

    try:
        space = open_bucket(plan.name, settings, data / plan.directory)
    except (ValueError, RuntimeError) as error:
        raise SiteError([f"space {plan.name}: {error}"]) from error
    try:
        async with asyncio.timeout(_PROBE):
            await space.probe()
    except TimeoutError:
        log.warning("space.not_usable", space=plan.name, why="it does not answer")
    except OSError as error:  # it may be away, as any other day: senders are told, and try again
        log.warning("space.not_usable", space=plan.name, why=str(error))
    return space

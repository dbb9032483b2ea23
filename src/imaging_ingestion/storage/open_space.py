"""Opening a space in an object store, with the library loaded only where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ingestion.storage.cloud_settings import CloudSettings

if TYPE_CHECKING:
    from imaging_ingestion.storage.cloud import CloudSpace


def open_space(name: str, settings: CloudSettings, scratch: Path) -> CloudSpace:
    """The space called `name` in an object store; no request is made yet.

    `scratch` is a folder on a local disk, for objects on their way that are too large for memory.
    Raises ValueError if the library does not take the settings, RuntimeError if it is not
    installed, OSError if `scratch` cannot be used.
    """
    try:
        from imaging_ingestion.storage.cloud import CloudSpace
        from imaging_ingestion.storage.cloud_store import Patience, cloud_store
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise RuntimeError(
            f"space {name!r} is in an object store, which needs the extra `cloud`: "
            "pip install 'imaging-ingestion[cloud]'"
        ) from None
    return CloudSpace(name, cloud_store(settings, Patience()), settings.place, scratch)

"""An empty space of every kind, and what tests do with one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from object_stores import AzuriteStore, SwiftStore

from imaging_ingestion.storage.cloud import CloudSpace
from imaging_ingestion.storage.cloud_settings import CloudSettings, cloud_settings
from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.open_space import open_space
from imaging_ingestion.storage.space import SealedObject, Space

AnySpace = DirectorySpace | CloudSpace


@pytest.fixture(params=["directory", "swift", "azurite"])
def new_space(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], AnySpace]:
    """Makes a space; of the same name, the same one."""
    return spaces_of(request.param, request, tmp_path)


def spaces_of(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[[str], AnySpace]:
    """Makes spaces of a kind; of the same name, the same one."""
    if kind == "directory":
        return lambda name: DirectorySpace("clinical", tmp_path / name)
    store = request.getfixturevalue(kind)
    assert isinstance(store, SwiftStore | AzuriteStore)
    bucket = store.new_bucket()

    def make(name: str) -> CloudSpace:
        settings = store.settings(bucket) | {"BUCKET_PREFIX": f"of/{name}"}
        return open_space("clinical", settings_of(settings), tmp_path / "scratch")

    return make


@pytest.fixture
async def space(new_space: Callable[[str], AnySpace]) -> AsyncIterator[AnySpace]:
    """An empty space of each kind."""
    opened = new_space("space")
    yield opened
    await opened.close()


def settings_of(values: dict[str, str]) -> CloudSettings:
    """What they declare."""
    settings = cloud_settings(values)
    assert settings is not None
    return settings


async def put(space: Space, name: str, *pieces: bytes) -> SealedObject:
    writer = space.writer()
    for piece in pieces:
        await writer.write(piece)
    sealed = await writer.seal()
    await space.publish([(sealed, name)])
    return sealed


async def get(space: Space, name: str) -> bytes:
    reader = await space.open(name)
    try:
        return b"".join([piece async for piece in reader.stream()])
    finally:
        await reader.close()


async def names(space: Space) -> list[str]:
    return sorted([name async for name in space.names()])

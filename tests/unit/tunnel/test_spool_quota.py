"""How much a spool may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ingestion.storage.directory import DirectorySpace
from imaging_ingestion.storage.space import SpaceFullError
from imaging_ingestion.tunnel.spool.quota import Quota, SpoolSpace


async def test_what_comes_counts_at_once_and_what_goes_no_more(tmp_path: Path) -> None:
    quota = Quota(tmp_path, 1000, 0)
    space = DirectorySpace("objects", tmp_path / "objects")
    part = SpoolSpace("ARCHIVE", space, quota)
    writer, other = part.writer(), part.writer()
    await writer.write(bytes(600))
    assert (quota.coming, quota.kept) == (600, 0)
    with pytest.raises(SpaceFullError):
        await other.write(bytes(500))
    await other.abort()
    sealed = await writer.seal()
    await part.publish([(sealed, "00/1/2/3.dcm")])
    assert (quota.coming, quota.kept) == (0, 600)
    await part.delete("00/1/2/3.dcm")
    await part.delete("00/1/2/3.dcm")  # it is not there any more
    assert quota.used == 0
    assert quota.refusals == 1
    await space.close()


async def test_what_is_given_up_counts_no_more(tmp_path: Path) -> None:
    quota = Quota(tmp_path, 1000, 0)
    space = DirectorySpace("objects", tmp_path / "objects")
    part = SpoolSpace("ARCHIVE", space, quota)
    for _ in range(3):
        writer = part.writer()
        await writer.write(bytes(900))
        await writer.abort()
        await writer.abort()
    writer = part.writer()
    await writer.write(memoryview(bytes(900)))
    await part.discard(await writer.seal())
    assert quota.used == 0
    assert not list((tmp_path / "objects").rglob("*.dcm"))
    await space.close()


def test_a_part_of_the_disk_stays_free(tmp_path: Path) -> None:
    quota = Quota(tmp_path, None, 1 << 60)
    with pytest.raises(SpaceFullError, match="of the disk"):
        quota.take(1)
    assert quota.used == 0

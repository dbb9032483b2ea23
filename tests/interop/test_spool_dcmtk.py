"""dcmtk at both ends of a proxy that keeps instances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from dcmtk_peers import DcmtkPeer, data_sets_in, dcmqrscp, storescp
from instances import with_uids
from nats_servers import NatsServer, nats
from platform_process import free_port
from spool_proxies import is_empty, spooling
from tunnel_proxies import Behind, Pair, eventually, new_root, proxies, run, running_proxy

__all__ = ["nats"]

IMAGES = 5
STUDY = "1.2.826.0.1.3680043.8.498.79"
STUDY_KEYS = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")


@pytest.fixture
async def files(tmp_path: Path, dicom_file) -> list[str]:
    made = []
    for number in range(1, IMAGES + 1):
        path = tmp_path / f"{number}.dcm"
        uids = (STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}")
        path.write_bytes(await asyncio.to_thread(with_uids, dicom_file("CT_small.dcm"), *uids))
        made.append(str(path))
    return made


@dataclass
class Archive:
    """dcmqrscp behind the far proxy; its destination DEST is the far proxy itself."""

    pair: Pair
    peer: DcmtkPeer
    store: DcmtkPeer  # behind the near proxy
    spool: Path

    @property
    def where(self) -> tuple[str, ...]:
        return ("-aet", "STATION", "-aec", "PROJECTED", "127.0.0.1", str(self.pair.near.port))

    async def fill(self, files: list[str]) -> None:
        code, said = await run("storescu", *self.where, *files)
        assert code == 0, said
        await eventually(lambda: is_empty(self.spool))


@pytest.fixture
async def archive(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Archive]:
    back = free_port()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(storescp(tmp_path / "in", "+B"))
        peer = await stack.enter_async_context(dcmqrscp(tmp_path / "archive", back))
        pair = await stack.enter_async_context(
            proxies(
                nats.address,
                Behind(peer.port, peer.ae_title),
                Behind(store.port, store.ae_title),
                near_values=spooling(tmp_path / "spool"),
                far_values={"DIMSE_PORT": str(back)},
            )
        )
        yield Archive(pair, peer, store, tmp_path / "spool")


async def test_instances_reach_storescp_as_they_do_without_a_proxy(
    nats: NatsServer, tmp_path: Path, files: list[str]
) -> None:
    async with (
        storescp(tmp_path / "through", "+B") as through,
        storescp(tmp_path / "directly", "+B") as directly,
        proxies(
            nats.address,
            Behind(through.port, through.ae_title),
            near_values=spooling(tmp_path / "spool"),
        ) as pair,
    ):
        for port in (pair.near.port, directly.port):
            code, said = await run("storescu", "127.0.0.1", str(port), *files)
            assert code == 0, said
        await eventually(lambda: is_empty(tmp_path / "spool"))
        assert through.data_sets() == directly.data_sets()
        assert len(through.data_sets()) == IMAGES


async def test_storescu_is_served_while_the_other_side_is_away(
    nats: NatsServer, tmp_path: Path, files: list[str]
) -> None:
    root = new_root()
    async with storescp(tmp_path / "in", "+B") as peer:
        spool = spooling(tmp_path / "spool")
        async with running_proxy(nats.address, "A", root, **spool) as near:
            code, said = await run("storescu", "127.0.0.1", str(near.port), *files)
            assert code == 0, said
            behind = Behind(peer.port, peer.ae_title).values()
            async with running_proxy(nats.address, "B", root, **behind):
                await eventually(lambda: is_empty(tmp_path / "spool"))
        assert len(peer.data_sets()) == IMAGES


async def test_echo_find_move_and_get_are_the_archives(
    archive: Archive, tmp_path: Path, files: list[str]
) -> None:
    await archive.fill(files)
    code, said = await run("echoscu", "-v", *archive.where)
    assert code == 0, said
    assert "Received Echo Response (Success)" in said
    keys = ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={STUDY}")
    keys += ("-k", f"SeriesInstanceUID={STUDY}.1", "-k", "SOPInstanceUID")
    code, said = await run("findscu", "-v", "-S", *keys, *archive.where)
    assert code == 0, said
    assert all(f"[{STUDY}.1.{number}" in said for number in range(1, IMAGES + 1))
    folder = tmp_path / "got"
    await asyncio.to_thread(folder.mkdir)
    get = ("getscu", "-S", "+B", "-od", str(folder))
    code, said = await run(*get, *STUDY_KEYS, *archive.where)
    assert code == 0, said
    assert len(data_sets_in(folder)) == IMAGES
    code, said = await run("movescu", "-v", "-S", "-aem", "DEST", *STUDY_KEYS, *archive.where)
    assert code == 0, said
    assert "Received Final Move Response (Success)" in said
    assert archive.store.data_sets() == data_sets_in(folder)

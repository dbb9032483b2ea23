"""dcmtk at both ends of the tunnel: its SCUs call a proxy, its archive is behind the other one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Authority
from dcmtk_peers import DcmtkPeer, data_sets_in, dcmqrscp, storescp
from instances import with_uids
from nats_servers import NatsServer, nats
from platform_process import free_port
from tunnel_proxies import Behind, Pair, eventually, proxies, run

__all__ = ["nats"]

IMAGES = 5
STUDY = "1.2.826.0.1.3680043.8.498.77"
STUDY_KEYS = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")


@dataclass
class Archive:
    """dcmqrscp behind the far proxy; its destination DEST is the far proxy itself."""

    pair: Pair
    peer: DcmtkPeer
    files: list[Path]
    store: DcmtkPeer  # behind the near proxy

    @property
    def where(self) -> tuple[str, ...]:
        return ("-aet", "STATION", "-aec", "PROJECTED", "127.0.0.1", str(self.pair.near.port))

    @property
    def uids(self) -> set[str]:
        return {f"{STUDY}.1.{number}" for number in range(1, IMAGES + 1)}

    async def got_directly(self, folder: Path) -> dict[str, bytes]:
        """What dcmtk gets from the archive without a tunnel: it writes some of it anew."""
        await asyncio.to_thread(folder.mkdir)
        where = ("-aec", self.peer.ae_title, "127.0.0.1", str(self.peer.port))
        code, said = await run("getscu", "-S", "+B", "-od", str(folder), *STUDY_KEYS, *where)
        assert code == 0, said
        return data_sets_in(folder)

    async def fill(self) -> None:
        code, said = await run("storescu", *self.where, *map(str, self.files))
        assert code == 0, said


@pytest.fixture
async def archive(nats: NatsServer, tmp_path: Path, dicom_file) -> AsyncIterator[Archive]:
    files = []
    for number in range(1, IMAGES + 1):
        path = tmp_path / f"{number}.dcm"
        uids = (STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}")
        path.write_bytes(await asyncio.to_thread(with_uids, dicom_file("CT_small.dcm"), *uids))
        files.append(path)
    back = free_port()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(storescp(tmp_path / "in", "+B"))
        peer = await stack.enter_async_context(dcmqrscp(tmp_path / "archive", back))
        pair = await stack.enter_async_context(
            proxies(
                nats.address,
                Behind(peer.port, peer.ae_title),
                Behind(store.port, store.ae_title),
                far_values={"DIMSE_PORT": str(back)},
            )
        )
        yield Archive(pair, peer, files, store)


async def test_c_echo_reaches_the_entity_behind_the_other_proxy(archive: Archive) -> None:
    code, said = await run("echoscu", "-v", *archive.where)
    assert code == 0, said
    assert "Received Echo Response (Success)" in said


async def test_c_store_arrives_as_it_does_without_a_tunnel(
    archive: Archive, tmp_path: Path
) -> None:
    files = [str(path) for path in archive.files]
    for port in (archive.pair.far.port, archive.store.port):  # the other direction; directly
        code, said = await run("storescu", "127.0.0.1", str(port), *files)
        assert code == 0, said
        arrived = archive.store.data_sets()
        for path in archive.store.folder.iterdir():
            path.unlink()
        assert set(arrived) == archive.uids
        if port == archive.pair.far.port:
            through = arrived
    assert through == arrived


async def test_c_find_gives_what_the_archive_has(archive: Archive) -> None:
    await archive.fill()
    keys = ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={STUDY}")
    keys += ("-k", f"SeriesInstanceUID={STUDY}.1", "-k", "SOPInstanceUID")
    code, said = await run("findscu", "-v", "-S", *keys, *archive.where)
    assert code == 0, said
    assert {uid for uid in archive.uids if f"[{uid}" in said} == archive.uids


async def test_c_cancel_overtakes_nothing_and_ends_a_query(archive: Archive) -> None:
    await archive.fill()
    keys = ("-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={STUDY}")
    keys += ("-k", f"SeriesInstanceUID={STUDY}.1", "-k", "SOPInstanceUID")
    code, said = await run("findscu", "-d", "-S", "--cancel", "1", *keys, *archive.where)
    assert code == 0, said
    assert "Sending Cancel Request" in said
    assert "Received Final Find Response" in said


async def test_c_move_brings_its_sub_operations_back_through_the_other_channel(
    archive: Archive, tmp_path: Path
) -> None:
    await archive.fill()
    code, said = await run("movescu", "-v", "-S", "-aem", "DEST", *STUDY_KEYS, *archive.where)
    assert code == 0, said
    assert "Received Final Move Response (Success)" in said
    assert archive.store.data_sets() == await archive.got_directly(tmp_path / "directly")


async def test_c_get_returns_instances_on_the_same_association(
    archive: Archive, tmp_path: Path
) -> None:
    await archive.fill()
    folder = tmp_path / "got"
    folder.mkdir()
    command = ("getscu", "-S", "+B", "-od", str(folder))
    code, said = await run(*command, *STUDY_KEYS, *archive.where)
    assert code == 0, said
    assert data_sets_in(folder) == await archive.got_directly(tmp_path / "directly")


async def test_a_refusal_of_the_target_is_told_as_it_is(nats: NatsServer, tmp_path: Path) -> None:
    async with (
        storescp(tmp_path / "in", "--refuse") as peer,
        proxies(nats.address, Behind(peer.port)) as pair,
    ):
        code, said = await run("echoscu", "-v", "127.0.0.1", str(pair.near.port))
        _, direct = await run("echoscu", "-v", "127.0.0.1", str(peer.port))
    assert code != 0
    assert "Association Rejected" in said
    assert said == direct


async def test_an_abort_of_the_target_is_told_as_it_is(
    nats: NatsServer, tmp_path: Path, dicom_file
) -> None:
    file = str(dicom_file("CT_small.dcm"))
    async with (
        storescp(tmp_path / "in", "--abort-during") as peer,
        proxies(nats.address, Behind(peer.port)) as pair,
    ):
        code, said = await run("storescu", "-v", "127.0.0.1", str(pair.near.port), file)
        assert code != 0
        assert "Peer Aborted Association" in said
        assert pair.near.metric("streams_failed_total", why="peer_gone") == 0


async def test_a_peer_that_aborts_is_aborted_at_the_target(
    nats: NatsServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    async with AsyncExitStack() as stack:
        port = free_port()
        command = ("storescp", "-v", "-od", str(tmp_path), str(port))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        stack.callback(process.terminate)
        pair = await stack.enter_async_context(proxies(nats.address, Behind(port)))
        code, said = "", ""
        for _ in range(50):  # until storescp listens
            code, said = await run("echoscu", "--abort", "127.0.0.1", str(pair.near.port))
            if code == 0:
                break
        assert code == 0, said
        await eventually(lambda: "Association Abort" in log.read_text())


async def test_tls_is_spoken_to_local_peers_and_to_the_target(
    nats: NatsServer, tmp_path: Path
) -> None:
    authority = Authority()
    ca = authority.file(tmp_path / "ca.pem")
    issued = {name: authority.issue(name) for name in ("proxy", "target", "peer")}
    both = {name: one.pem(tmp_path / f"{name}.pem") for name, one in issued.items()}
    key = {name: one.key_file(tmp_path / f"{name}.key") for name, one in issued.items()}
    tls = {
        "DIMSE_TLS_ENABLED": "true",
        "DIMSE_TLS_KEYSTORE": str(both["proxy"]),
        "DIMSE_TLS_TRUSTSTORE": str(ca),
    }

    def options(name: str) -> tuple[str, ...]:
        return ("+tls", str(key[name]), str(both[name]), "+cf", str(ca))

    async with (
        storescp(tmp_path / "in", *options("target")) as peer,
        proxies(nats.address, Behind(peer.port), near_values=tls, far_values=tls) as pair,
    ):
        where = ("127.0.0.1", str(pair.near.port))
        code, said = await run("echoscu", "-v", *options("peer"), *where)
        assert code == 0, said
        code, _ = await run("echoscu", *where)  # without TLS
        assert code != 0
        async with proxies(nats.address, Behind(peer.port)) as plain:
            code, said = await run("echoscu", "-v", "127.0.0.1", str(plain.near.port))
            assert code != 0, said  # the target wants TLS

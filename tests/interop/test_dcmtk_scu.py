"""Our SCUs against dcmtk's SCPs: storescp and the archive dcmqrscp."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from command import command
from dcmtk_peers import DcmtkPeer, data_sets_in, dcmqrscp, storescp
from dimse_site import elements
from instances import with_uids
from platform_process import free_port

STUDY = "1.2.826.0.1.3680043.8.498.12"
SERIES = f"{STUDY}.1"
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
#: Explicit and implicit VR, big endian, deflated, RLE, JPEG, JPEG 2000, JPEG-LS.
FILES = (
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
)


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


async def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    """What the command prints."""
    words = [one if isinstance(one, Path) else str(one) for one in arguments]
    done = await asyncio.to_thread(command, *words, codes=codes)
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path, dicom_file: Callable[[str], Path]) -> Path:
    """One file in each transfer syntax, all of one series."""
    made = tmp_path / "files"
    made.mkdir()
    for number, name in enumerate(FILES):
        (made / name).write_bytes(with_uids(dicom_file(name), STUDY, SERIES, sop(number)))
    return made


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[DcmtkPeer]:
    async with dcmqrscp(tmp_path / "archive") as peer:
        yield peer


async def test_echo(archive: DcmtkPeer) -> None:
    answer = json.loads(await run("echo", archive, "--json"))
    assert answer["status"] == "0000"
    assert answer["implementation_version_name"].startswith("OFFIS_DCMTK")
    assert answer["max_pdu_length"] == 16384


async def test_every_transfer_syntax_arrives_byte_for_byte(tmp_path: Path, folder: Path) -> None:
    async with storescp(tmp_path / "scp", "+B", "+xa") as peer:
        assert "8 stored, 0 already there, 0 failed" in await run("send", folder, "--to", peer)
        found = await asyncio.to_thread(peer.data_sets)
    assert found == data_sets_in(folder)


async def test_a_deflated_file_of_odd_length_is_taken(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    file = dicom_file("image_dfl.dcm")
    (tmp_path / "odd").mkdir()
    shutil.copy(file, tmp_path / "odd")
    (sent,) = data_sets_in(tmp_path / "odd").values()
    assert len(sent) % 2, "the file is to be one of odd length"
    async with storescp(tmp_path / "scp", "+B", "+xa") as peer:
        assert "1 stored" in await run("send", file, "--to", peer)
        (found,) = (await asyncio.to_thread(peer.data_sets)).values()
    assert found == sent + b"\0"


@pytest.mark.parametrize(
    ("option", "syntax"),
    [
        ("+xi", "1.2.840.10008.1.2"),
        ("+xe", "1.2.840.10008.1.2.1"),
        ("+xb", "1.2.840.10008.1.2.2"),
        ("+xd", "1.2.840.10008.1.2.1.99"),
        ("+xr", "1.2.840.10008.1.2.5"),
    ],
)
async def test_a_storescp_that_takes_one_transfer_syntax_gets_that(
    tmp_path: Path, folder: Path, dicom_file: Callable[[str], Path], option: str, syntax: str
) -> None:
    async with storescp(tmp_path / "scp", "+B", option) as peer:
        said = await run("send", folder, "--to", peer)
        assert "8 stored, 0 already there, 0 failed" in said
        files = await asyncio.to_thread(lambda: list(peer.folder.iterdir()))
    by_uid = {found.SOPInstanceUID: found for found in map(pydicom.dcmread, files)}
    for number, name in enumerate(FILES):
        found = by_uid[sop(number)]
        # Except for +xi, it takes the other plain ones as well.
        plain = () if option == "+xi" else PLAIN
        assert found.file_meta.TransferSyntaxUID in (syntax, *plain)
        if name != "SC_rgb_jpeg_dcmtk.dcm":
            expected = pydicom.dcmread(dicom_file(name)).pixel_array
            assert np.array_equal(found.pixel_array, expected), name


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--refuse", "no reason given"),
        ("--abort-during", "aborted"),
        ("--abort-after", "aborted"),
    ],
)
async def test_a_storescp_that_breaks_off_is_told(
    tmp_path: Path, folder: Path, option: str, told: str
) -> None:
    only = folder / "CT_small.dcm"
    async with storescp(tmp_path / "scp", option) as peer:
        assert told in await run("send", only, "--to", peer, codes=(1,))


async def test_a_storescp_with_a_small_pdu_gets_everything(tmp_path: Path, folder: Path) -> None:
    async with storescp(tmp_path / "scp", "+B", "+xa", "-pdu", "4096") as peer:
        await run("send", folder, "--to", peer)
        found = await asyncio.to_thread(peer.data_sets)
    assert found == data_sets_in(folder)


async def test_an_archive_is_filled_asked_and_emptied(
    tmp_path: Path, archive: DcmtkPeer, folder: Path
) -> None:
    # Its index is not made for several processes that write.
    await run("send", folder, "--to", archive, "--concurrency", "1")
    (study,) = json.loads(await run("find", archive, "-k", "PatientName", "--json"))[:1] or [{}]
    assert study
    found = json.loads(await run("find", archive, "-k", f"StudyInstanceUID={STUDY}", "--json"))
    assert found[0]["0020000D"]["Value"] == [STUDY]
    keys = ["-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={SERIES}"]
    images = json.loads(await run("find", archive, "--level", "image", *keys, "--json"))
    assert {one["00080018"]["Value"][0] for one in images} == {sop(n) for n in range(8)}
    out = tmp_path / "out"
    said = await run("get", archive, "-k", f"StudyInstanceUID={STUDY}", "--out", out)
    assert f"8 received in {out}, 0 failed" in said
    got = await asyncio.to_thread(data_sets_in, out)
    sent = data_sets_in(folder)
    assert got.keys() == sent.keys()
    for uid, data in got.items():
        # It may convert between uncompressed transfer syntaxes, and writes lengths its own way.
        syntax = pydicom.dcmread(out / f"{uid}.dcm").file_meta.TransferSyntaxUID
        own = pydicom.dcmread(
            folder / FILES[int(uid.rsplit(".", 1)[1])]
        ).file_meta.TransferSyntaxUID
        if syntax == own and syntax.is_little_endian:
            assert elements(data, syntax) == elements(sent[uid], syntax), uid


async def test_an_archive_moves_to_our_destination(tmp_path: Path, folder: Path) -> None:
    port = free_port()
    async with (
        dcmqrscp(tmp_path / "archive", port) as archive,
        storescp(tmp_path / "scp", "+xa", port=port) as peer,
    ):
        only = folder / "CT_small.dcm"
        await run("send", only, "--to", archive)
        said = await run("move", archive, "--dest", "DEST", "-k", f"StudyInstanceUID={STUDY}")
        assert "1 completed, 0 failed, 0 with warnings" in said
        assert set(peer.data_sets()) == {sop(0)}
        said = await run(
            "move", archive, "--dest", "ELSEWHERE", "-k", f"StudyInstanceUID={STUDY}", codes=(1,)
        )
        assert "A801H" in said


async def test_a_limit_cancels_at_the_archive(archive: DcmtkPeer, folder: Path) -> None:
    await run("send", folder, "--to", archive, "--concurrency", "1")
    keys = ["-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={SERIES}"]
    said = await run("find", archive, "--level", "image", *keys, "--limit", "3")
    assert "only the first 3 are shown" in said

"""dcmtk retrieves: movescu and getscu as requestors, storescp as a destination (C18 to C26)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from instances import with_uids
from platform_process import free_port
from query_site import AE_TITLE, QuerySite, listening, run
from recorded import data_set, part10
from retrieve_site import RetrieveSite, retrieve_site

from imaging_ingestion.association.services.destination import Destination
from imaging_ingestion.dicom.scan import scan_bytes

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


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[RetrieveSite]:
    async with retrieve_site(tmp_path) as found:
        yield found


@pytest.fixture
async def files(site: RetrieveSite, dicom_file) -> dict[str, bytes]:
    """Real files in the site, by SOP Instance UID."""
    stored = {}
    for number, name in enumerate(FILES, 1):
        uids = (f"1.3.{number}", f"1.3.{number}.1", f"1.3.{number}.1.1")
        content = await asyncio.to_thread(with_uids, dicom_file(name), *uids)
        received = await site.store(content)
        stored[received.sop_instance_uid] = content
    return stored


async def store(site: RetrieveSite, number: int) -> None:
    for index in range(1, number + 1):
        made = data_set(
            StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID=f"1.2.{index}"
        )
        await site.store(part10(made))


def data_sets_in(folder: Path) -> dict[str, bytes]:
    """The data sets of the files there, as they are, by SOP Instance UID."""
    found = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        header = scan_bytes(content)
        found[str(header.text(0x00080018))] = content[header.dataset_offset :]
    return found


def data_sets_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {uid: content[scan_bytes(content).dataset_offset :] for uid, content in files.items()}


def study_keys(*uids: str) -> list[str]:
    joined = "\\".join(uids)
    return ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={joined}"]


def studies_of(files: dict[str, bytes]) -> list[str]:
    return sorted({str(scan_bytes(content).text(0x0020000D)) for content in files.values()})


async def movescu(asked: QuerySite, port: int, folder: Path, *options: str) -> str:
    """What movescu says, as destination MOVESCU itself."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    where = ("-aec", AE_TITLE, "-aem", "MOVESCU", "127.0.0.1", str(asked.port))
    # With +B it puts files where it is, whatever the output directory.
    command = ("movescu", "-d", "-S", "+P", str(port), *options, *where)
    _, said = await run(*command, cwd=folder)
    return said


async def test_movescu_receives_what_it_asked_for(  # C19, C22
    site: RetrieveSite, files: dict[str, bytes], tmp_path: Path
) -> None:
    port = free_port()
    folder = tmp_path / "out"
    async with listening(site, [Destination("MOVESCU", "127.0.0.1", port)]) as asked:
        said = await movescu(asked, port, folder, "+xa", "+B", *study_keys(*studies_of(files)))
    assert "0x0000: Success" in said
    found = await asyncio.to_thread(data_sets_in, folder)
    assert found == data_sets_of(files)


async def test_movescu_is_told_of_an_unknown_destination(site: RetrieveSite, tmp_path) -> None:
    # C18
    await store(site, 1)
    async with listening(site) as asked:
        said = await movescu(asked, free_port(), tmp_path / "out", *study_keys("1.1"))
    assert "0xa801" in said


async def test_movescu_cancels(site: RetrieveSite, tmp_path: Path) -> None:  # C24
    await store(site, 40)
    port = free_port()
    async with listening(site, [Destination("MOVESCU", "127.0.0.1", port)]) as asked:
        said = await movescu(asked, port, tmp_path / "out", "--cancel", "2", *study_keys("1.1"))
    assert "0xfe00" in said
    last = said[said.rindex("Move Response") if "Move Response" in said else 0 :]
    numbers = {
        name: int(line.rsplit(":", 1)[1])
        for line in last.splitlines()
        for name in ("Remaining", "Completed", "Failed", "Warning")
        if f"{name} Suboperations" in line
    }
    assert sum(numbers.values()) == 40
    assert numbers["Remaining"] > 0


@asynccontextmanager
async def storescp(folder: Path, *options: str) -> AsyncIterator[Destination]:
    """dcmtk's storage SCP, listening."""
    await asyncio.to_thread(folder.mkdir)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "storescp",
        "-aet",
        "STORESCP",
        "-od",
        str(folder),
        *options,
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while True:
                code, _ = await run("echoscu", "-aec", "STORESCP", "127.0.0.1", str(port))
                if code == 0:
                    break
        yield Destination("STORESCP", "127.0.0.1", port)
    finally:
        process.terminate()
        await process.wait()


async def move_to_storescp(asked: QuerySite, *options: str) -> str:
    where = ("-aec", AE_TITLE, "-aem", "STORESCP", "127.0.0.1", str(asked.port))
    _, said = await run("movescu", "-d", "-S", *options, *where)
    return said


async def test_storescp_receives_what_somebody_else_asked_for(  # C22
    site: RetrieveSite, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    async with (
        storescp(folder, "+xa", "+B") as destination,
        listening(site, [destination]) as asked,
    ):
        said = await move_to_storescp(asked, *study_keys(*studies_of(files)))
    assert "0x0000: Success" in said
    found = await asyncio.to_thread(data_sets_in, folder)
    assert found == data_sets_of(files)


async def test_storescp_that_refuses_compressed_instances_gets_the_others(  # C20, C22
    site: RetrieveSite, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    async with (
        storescp(folder, "+x=", "+B") as destination,
        listening(site, [destination]) as asked,
    ):
        said = await move_to_storescp(asked, *study_keys(*studies_of(files)))
    assert "0xb000" in said
    plain = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
    expected = {
        uid: content
        for uid, content in files.items()
        if scan_bytes(content).transfer_syntax_uid in plain
    }
    assert 0 < len(expected) < len(files)
    assert await asyncio.to_thread(data_sets_in, folder) == data_sets_of(expected)


async def test_storescp_that_aborts_in_the_middle_costs_what_it_refuses(  # C23
    site: RetrieveSite, tmp_path: Path
) -> None:
    await store(site, 4)
    async with (
        storescp(tmp_path / "out", "--abort-during") as destination,
        listening(site, [destination]) as asked,
    ):
        said = await move_to_storescp(asked, *study_keys("1.1"))
    assert "0xa702" in said


@pytest.mark.parametrize("model", ["-S", "-P"])
async def test_getscu_receives_what_it_asked_for(  # C26
    site: RetrieveSite, tmp_path: Path, dicom_file, model: str
) -> None:
    contents = {}
    for name in ("CT_small.dcm", "MR_small.dcm"):
        content = await asyncio.to_thread(dicom_file(name).read_bytes)
        contents[(await site.store(content)).sop_instance_uid] = content
    folder = tmp_path / "out"
    await asyncio.to_thread(folder.mkdir)
    where = ("-aec", AE_TITLE, "127.0.0.1")
    for content in contents.values():
        header = scan_bytes(content)
        above = ["-k", f"PatientID={header.text(0x00100020)}"] if model == "-P" else []
        async with listening(site) as asked:
            _, said = await run(
                "getscu",
                "-d",
                model,
                "+B",
                "-od",
                folder,
                *above,
                *study_keys(str(header.text(0x0020000D))),
                *where,
                str(asked.port),
            )
        assert "0x0000: Success" in said
    assert await asyncio.to_thread(data_sets_in, folder) == data_sets_of(contents)


async def test_getscu_without_a_fitting_context_is_told_what_failed(  # C26
    site: RetrieveSite, files: dict[str, bytes], tmp_path: Path
) -> None:
    (uid,) = [
        uid
        for uid, content in files.items()
        if scan_bytes(content).transfer_syntax_uid == "1.2.840.10008.1.2.5"
    ]
    study = str(scan_bytes(files[uid]).text(0x0020000D))
    async with listening(site) as asked:
        where = ("-aec", AE_TITLE, "127.0.0.1", str(asked.port))
        _, said = await run("getscu", "-d", "-S", "-od", tmp_path, *study_keys(study), *where)
    assert "0xa702" in said or "0xb000" in said

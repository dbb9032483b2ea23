"""The transcoder: as data sets stream, and by processes that may fall without anybody noticing."""

from __future__ import annotations

import asyncio
import io
import os
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
from stow_site import until

from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.transcoding.transcoder import (
    TranscodeError,
    Transcoder,
    TranscoderSettings,
    WorkerError,
)

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG_LOSSLESS, J2K = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
GiB = 1 << 30

DataSet = tuple[str, bytes]
Convert = Callable[[DataSet, str], Awaitable[bytes]]


@pytest.fixture
def data_set(dicom_file: Callable[[str], Path]) -> Callable[[str], DataSet]:
    """Transfer syntax and data set of a real file."""

    def read(name: str) -> DataSet:
        content = dicom_file(name).read_bytes()
        header = scan_bytes(content)
        return header.transfer_syntax_uid, content[header.dataset_offset :]

    return read


async def streamed(data: bytes, piece: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), piece):
        yield data[start : start + piece]


async def convert(transcoder: Transcoder, source: DataSet, target: str) -> bytes:
    syntax, data = source
    async with transcoder.converted(streamed(data), syntax, target) as pieces:
        return b"".join([piece async for piece in pieces])


def pixels(data: bytes, syntax: str) -> np.ndarray:
    return pydicom.dcmread(io.BytesIO(file_meta("1.2", "1.2", syntax) + data)).pixel_array


def workers() -> list[psutil.Process]:
    """The processes that run now."""
    found = []
    for child in psutil.Process().children():
        try:
            if "imaging_ingestion.transcoding.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


@pytest.fixture
async def transcoder(tmp_path: Path) -> AsyncIterator[Transcoder]:
    folder = tmp_path / "spool"
    folder.mkdir()
    made = Transcoder(TranscoderSettings(folder=folder))
    yield made
    await made.close()
    assert list(folder.iterdir()) == []
    assert workers() == []


async def test_pixels_come_out_of_a_process(
    transcoder: Transcoder, data_set: Callable[[str], DataSet], dicom_file: Callable[[str], Path]
) -> None:
    expected = pydicom.dcmread(dicom_file("MR_small.dcm")).pixel_array
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        for target in (EXPLICIT, IMPLICIT):
            found = await convert(transcoder, data_set(name), target)
            assert np.array_equal(pixels(found, target), expected)
    assert len(workers()) == 1


async def test_uncompressed_data_sets_need_no_process(
    transcoder: Transcoder, data_set: Callable[[str], DataSet]
) -> None:
    found = await convert(transcoder, data_set("CT_small.dcm"), IMPLICIT)
    assert await convert(transcoder, (IMPLICIT, found), EXPLICIT)
    assert workers() == []


async def test_uncompressed_data_sets_go_on_as_they_come(transcoder: Transcoder) -> None:
    head = b"\xe0\x7f\x10\x00OW\0\0\0\0\x20\0"  # 2 MiB
    more = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield head + bytes(1 << 20)
        await more.wait()
        yield bytes(1 << 20)

    async with transcoder.converted(slowly(), EXPLICIT, IMPLICIT) as pieces:
        async with asyncio.timeout(20):
            first = await anext(pieces)
        assert len(first) >= 1 << 20
        more.set()
        assert len(first) + sum([len(piece) async for piece in pieces]) == 8 + (2 << 20)


async def test_many_at_once_share_a_few_processes(
    transcoder: Transcoder, data_set: Callable[[str], DataSet]
) -> None:
    source = data_set("MR_small_RLE.dcm")
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, len(workers()))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    found = await asyncio.gather(*(convert(transcoder, source, EXPLICIT) for _ in range(20)))
    watching.cancel()
    assert len(set(found)) == 1
    assert 1 <= most <= 2


async def test_what_cannot_be_decoded_is_told_on_entry(
    transcoder: Transcoder, data_set: Callable[[str], DataSet]
) -> None:
    syntax, data = data_set("multiframe.dcm")
    with pytest.raises(TranscodeError, match="a frame cannot be decoded"):
        async with transcoder.converted(streamed(data), syntax, EXPLICIT):
            pytest.fail("nothing can be sent of it")
    assert await convert(transcoder, data_set("MR_small_RLE.dcm"), EXPLICIT)


async def test_a_malformed_data_set_is_told(transcoder: Transcoder) -> None:
    with pytest.raises(TranscodeError):
        await convert(transcoder, (EXPLICIT, b"\x10\0\x20\0LO\x08\x00abc"), IMPLICIT)


@pytest.mark.parametrize("target", [EXPLICIT, J2K])
async def test_an_error_of_the_data_set_goes_on(transcoder: Transcoder, target: str) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"\x10\0\x20\0"
        raise OSError(5, "Input/output error")

    async def all_of_it() -> list[bytes]:
        async with transcoder.converted(breaks(), IMPLICIT, target) as pieces:
            return [piece async for piece in pieces]

    with pytest.raises(OSError, match="Input/output error"):
        await all_of_it()


# --- codecs that behave as badly as they can


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has a module of this source stand for the codec of JPEG."""

    def install(source: str) -> None:
        folder = tmp_path / "codecs"
        folder.mkdir()
        (folder / "gdcm.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install


async def assert_goes_on(transcoder: Transcoder, data_set: Callable[[str], DataSet]) -> None:
    """Others are served by the next process."""
    assert await convert(transcoder, data_set("MR_small_jp2klossless.dcm"), EXPLICIT)


async def test_a_codec_that_crashes_takes_nobody_along(
    transcoder: Transcoder, data_set: Callable[[str], DataSet], codec: Callable[[str], None]
) -> None:
    codec(
        """
        import os, sys
        if "imaging_ingestion.dicom.transcode" in sys.modules:
            os.kill(os.getpid(), 11)
        """
    )
    for _ in range(2):
        with pytest.raises(TranscodeError, match="the codec crashed"):
            await convert(transcoder, data_set("SC_rgb_jpeg_gdcm.dcm"), EXPLICIT)


async def test_a_codec_that_hangs_is_ended(
    tmp_path: Path, data_set: Callable[[str], DataSet], codec: Callable[[str], None]
) -> None:
    codec("import time; time.sleep(3600)")
    transcoder = Transcoder(TranscoderSettings(folder=tmp_path, timeout=1.0))
    with pytest.raises(TranscodeError, match="longer than 1 s"):
        await convert(transcoder, data_set("SC_rgb_jpeg_gdcm.dcm"), EXPLICIT)
    assert workers() == []
    await transcoder.close()


async def test_a_codec_that_takes_too_much_memory_is_stopped(
    tmp_path: Path, data_set: Callable[[str], DataSet], codec: Callable[[str], None]
) -> None:
    codec(f"taken = bytearray({8 * GiB})")
    transcoder = Transcoder(TranscoderSettings(folder=tmp_path))
    with pytest.raises(TranscodeError, match="too much memory"):
        await convert(transcoder, data_set("SC_rgb_jpeg_gdcm.dcm"), EXPLICIT)
    await transcoder.close()


async def test_a_codec_that_talks_does_not_disturb(
    transcoder: Transcoder, data_set: Callable[[str], DataSet], codec: Callable[[str], None]
) -> None:
    codec(
        """
        import os
        os.write(1, b"{}\\n" * 100)
        os.write(2, b"x")
        print("hello", flush=True)
        raise ImportError
        """
    )
    await assert_goes_on(transcoder, data_set)


async def test_a_worker_gets_no_secrets(
    tmp_path: Path,
    data_set: Callable[[str], DataSet],
    codec: Callable[[str], None],
    transcoder: Transcoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = tmp_path / "told"
    codec(f"import os; open({str(told)!r}, 'w').write(repr(dict(os.environ)))")
    monkeypatch.setenv("STOW_AUTH_TOKEN", "hunter2")
    with pytest.raises(TranscodeError):
        await convert(transcoder, data_set("SC_rgb_jpeg_gdcm.dcm"), EXPLICIT)
    assert "PATH" in told.read_text()
    assert "hunter2" not in told.read_text()


async def test_who_gives_up_leaves_no_process_and_no_file(
    tmp_path: Path, data_set: Callable[[str], DataSet], codec: Callable[[str], None]
) -> None:
    codec("import time; time.sleep(3600)")
    folder = tmp_path / "spool"
    folder.mkdir()
    transcoder = Transcoder(TranscoderSettings(folder=folder))
    waiting = asyncio.create_task(convert(transcoder, data_set("SC_rgb_jpeg_gdcm.dcm"), EXPLICIT))
    await until(lambda: bool(workers()), "a process works on it")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert workers() == []
    assert list(folder.iterdir()) == []
    await transcoder.close()


async def test_a_process_without_work_ends_and_the_next_job_has_another(
    tmp_path: Path, data_set: Callable[[str], DataSet]
) -> None:
    transcoder = Transcoder(TranscoderSettings(folder=tmp_path, idle=0.2))
    await assert_goes_on(transcoder, data_set)
    await until(lambda: not workers(), "the process ends")
    await assert_goes_on(transcoder, data_set)
    await transcoder.close()


async def test_a_process_that_was_killed_while_idle_is_replaced(
    transcoder: Transcoder, data_set: Callable[[str], DataSet]
) -> None:
    await assert_goes_on(transcoder, data_set)
    (worker,) = workers()
    worker.kill()
    await asyncio.to_thread(worker.wait, 20)
    # Whether it died of what it was given cannot be told any more: once it may be blamed for it.
    try:
        await assert_goes_on(transcoder, data_set)
    except TranscodeError:
        await assert_goes_on(transcoder, data_set)


async def test_no_room_for_the_files_may_pass(data_set: Callable[[str], DataSet]) -> None:
    transcoder = Transcoder(TranscoderSettings(folder=Path("/nowhere/at/all")))
    with pytest.raises(OSError, match="No such file"):
        await convert(transcoder, data_set("MR_small_RLE.dcm"), EXPLICIT)
    await transcoder.close()


async def test_a_closed_transcoder_starts_nothing(
    tmp_path: Path, data_set: Callable[[str], DataSet]
) -> None:
    transcoder = Transcoder(TranscoderSettings(folder=tmp_path))
    await transcoder.close()
    with pytest.raises(WorkerError, match="closed"):
        await convert(transcoder, data_set("MR_small_RLE.dcm"), EXPLICIT)
    assert workers() == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
async def test_a_worker_leaves_no_core_and_dies_with_its_parent(
    transcoder: Transcoder, data_set: Callable[[str], DataSet]
) -> None:
    await assert_goes_on(transcoder, data_set)
    (worker,) = workers()
    limits = await asyncio.to_thread(Path(f"/proc/{worker.pid}/limits").read_text)
    core = next(line for line in limits.splitlines() if line.startswith("Max core"))
    assert core.split()[4:6] == ["0", "0"]
    assert os.getpid() == worker.ppid()

"""WADO-RS over HTTP: frames (PS3.18 10.4.1.1.6). Their bytes are judged in test_wado_real_files."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pydicom
import pytest
import pytest_asyncio
from pydicom.uid import UID
from pydicom_judge import expected_frames
from retrieve_site import RetrieveSite, resource_of, retrieve_site

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELE = "1.2.840.10008.1.2.1"
OCTETS = 'multipart/related; type="application/octet-stream"'
ANY_PARTS = 'multipart/related; type="*/*"; transfer-syntax=*'

Files = Callable[[str], Path]


def with_uid(data_set: pydicom.Dataset, uid: str) -> bytes:
    """A data set as a file, under UIDs of its own."""
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    data_set.StudyInstanceUID = UID(f"{uid}.1")
    data_set.SeriesInstanceUID = UID(f"{uid}.1.1")
    buffer = io.BytesIO()
    data_set.save_as(buffer)
    return buffer.getvalue()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RetrieveSite]:
    """A site whose instances are only read once they are stored."""
    async with retrieve_site(tmp_path_factory.mktemp("frames")) as running:
        yield running


async def test_frames_come_as_parts_in_the_order_asked(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W14, H16, H17
    file = dicom_file("rtdose.dcm")
    path = resource_of(await site.store_file(file))
    frames = expected_frames(pydicom.dcmread(file))
    assert len(frames) == 15
    for accept in (OCTETS, f"{OCTETS}; transfer-syntax={ELE}", ANY_PARTS, None, "*/*"):
        answer = await site.get(f"{path}/frames/1,3,15", accept)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(OCTETS)
        assert [part.body for part in answer.parts] == [frames[0], frames[2], frames[14]]
        assert [part.headers["Content-Location"] for part in answer.parts] == [
            f"{site.url}{path}/frames/{number}" for number in (1, 3, 15)
        ]
        for part in answer.parts:
            expected = f"application/octet-stream; transfer-syntax={ELE}"
            assert part.headers["Content-Type"] == expected


async def test_one_frame_may_be_had_bare(site: RetrieveSite, dicom_file: Files) -> None:
    # W14
    file = dicom_file("rtdose.dcm")
    path = resource_of(await site.store_file(file))
    frames = expected_frames(pydicom.dcmread(file))
    answer = await site.get(f"{path}/frames/7", "application/octet-stream")
    assert answer.body == frames[6]
    assert answer.headers["Content-Location"] == f"{site.url}{path}/frames/7"
    assert (await site.get(f"{path}/frames/7,8", "application/octet-stream")).status == 406


# W15
@pytest.mark.parametrize(
    "frames",
    [
        "0",
        "",
        "one",
        "-1",
        "1,",
        ",1",
        "1,,2",
        "2,1",
        "1,1",
        "1;2",
        "1%202",
        "1.5",
        "0,1",
        "9999999999",
        "%D9%A1",
        "1-3",
    ],
)
async def test_a_list_that_is_none_is_a_bad_request(
    site: RetrieveSite, dicom_file: Files, frames: str
) -> None:
    path = resource_of(await site.store_file(dicom_file("rtdose.dcm")))
    answer = await site.get(f"{path}/frames/{frames}")
    assert answer.status == 400
    assert answer.detail == "the frame list is not made of ascending numbers from 1, like 1,2,5"


# W15
@pytest.mark.parametrize(("frames", "missing"), [("16", 16), ("1,999999999", 999999999)])
async def test_a_number_above_the_number_of_frames_is_not_found(
    site: RetrieveSite, dicom_file: Files, frames: str, missing: int
) -> None:
    path = resource_of(await site.store_file(dicom_file("rtdose.dcm")))
    for accept in (ANY_PARTS, "image/x"):  # whether it is there goes before how it may be sent
        answer = await site.get(f"{path}/frames/{frames}", accept)
        assert answer.status == 404
        assert answer.detail == f"there is no frame {missing}: the instance has 15"


# W15
@pytest.mark.parametrize("name", ["reportsi.dcm", "rtplan.dcm", "waveform_ecg.dcm"])
async def test_what_is_no_image_has_no_frames(
    site: RetrieveSite, dicom_file: Files, name: str
) -> None:
    path = resource_of(await site.store_file(dicom_file(name)))
    answer = await site.get(f"{path}/frames/1")
    assert answer.status == 404
    assert answer.detail == "the instance has no Pixel Data"


# W16
@pytest.mark.parametrize(
    ("name", "media_type", "syntax"),
    [
        ("examples_ybr_color.dcm", "image/jpeg", "1.2.840.10008.1.2.4.50"),
        ("SC_rgb_jpeg_gdcm.dcm", "image/jpeg", "1.2.840.10008.1.2.4.70"),
        ("MR_small_jpeg_ls_lossless.dcm", "image/jls", "1.2.840.10008.1.2.4.80"),
        ("JPEG2000.dcm", "image/jp2", "1.2.840.10008.1.2.4.91"),
        ("MR_small_jp2klossless.dcm", "image/jphc", "1.2.840.10008.1.2.4.201"),  # so it says
        ("SC_rgb_rle_2frame.dcm", "image/dicom-rle", "1.2.840.10008.1.2.5"),
    ],
)
async def test_a_compressed_frame_is_its_codestream(
    site: RetrieveSite, dicom_file: Files, name: str, media_type: str, syntax: str
) -> None:
    data_set = pydicom.dcmread(dicom_file(name))
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    path = resource_of(await site.store(with_uid(data_set, "1.2.6"))) + "/frames/1"
    (frame, *_) = expected_frames(data_set)
    typed = f'multipart/related; type="{media_type}"'
    for accept in (
        typed,
        f"{typed}; transfer-syntax={syntax}",
        f"{typed}; transfer-syntax=*",
        ANY_PARTS,
        "*/*",
        'multipart/related; type="application/octet-stream"; transfer-syntax=*',  # viewers
    ):
        (part,) = (await site.get(path, accept)).parts
        assert part.headers["Content-Type"] == f"{media_type}; transfer-syntax={syntax}"
        assert part.body == frame.removesuffix(b"\0") or part.body == frame
    single = await site.get(path, media_type)
    assert single.headers["Content-Type"] == f"{media_type}; transfer-syntax={syntax}"
    # W19: to decode comes in a later version, and so does another codec.
    for accept in (OCTETS, "application/octet-stream", f"{OCTETS}; transfer-syntax={ELE}"):
        assert (await site.get(path, accept)).status == 501
    other = "image/jls" if media_type != "image/jls" else "image/jp2"
    assert (await site.get(path, f'multipart/related; type="{other}"')).status == 501
    assert (await site.get(path, 'multipart/related; type="image/x"')).status == 406


async def test_a_codestream_without_a_media_type_of_its_own_names_its_transfer_syntax(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W16: octets alone would pass for pixels
    syntax = "1.2.840.10008.1.2.1.98"  # Encapsulated Uncompressed
    data_set = pydicom.dcmread(dicom_file("SC_rgb_rle_2frame.dcm"))
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    path = resource_of(await site.store(with_uid(data_set, "1.2.7"))) + "/frames/2"
    for accept in (ANY_PARTS, "*/*"):
        (part,) = (await site.get(path, accept)).parts
        assert part.headers["Content-Type"] == f"application/octet-stream; transfer-syntax={syntax}"
        assert part.body == expected_frames(data_set)[1]
    assert (await site.get(path, OCTETS)).status == 501


async def test_frames_of_an_instance_that_came_in_big_endian_are_little_endian(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W12, W14
    big, little = dicom_file("MR_small_bigendian.dcm"), dicom_file("MR_small.dcm")
    path = resource_of(await site.store_file(big))
    (part,) = (await site.get(f"{path}/frames/1", OCTETS)).parts
    assert part.body == pydicom.dcmread(little).PixelData


async def test_frames_that_cannot_be_told_apart_are_refused(
    site: RetrieveSite, dicom_file: Files
) -> None:
    # W17: nothing is guessed
    data_set = pydicom.dcmread(dicom_file("SC_rgb_rle_2frame.dcm"))
    data_set.NumberOfFrames = 3
    path = resource_of(await site.store(with_uid(data_set, "1.2.3")))
    answer = await site.get(f"{path}/frames/1", ANY_PARTS)
    assert answer.status == 406
    assert "3 frames lie in 2 fragments" in answer.detail
    assert "the instance itself can be had as application/dicom" in answer.detail


async def test_pixel_data_that_is_too_short_has_no_invented_pixels(
    site: RetrieveSite, dicom_file: Files
) -> None:
    data_set = pydicom.dcmread(dicom_file("CT_small.dcm"))
    data_set.NumberOfFrames = 2
    path = resource_of(await site.store(with_uid(data_set, "1.2.4")))
    assert (await site.get(f"{path}/frames/1", ANY_PARTS)).status == 200
    answer = await site.get(f"{path}/frames/1,2", ANY_PARTS)
    assert answer.status == 406
    assert "Pixel Data of 32768 bytes ends before frame 2" in answer.detail


async def test_an_image_without_its_description_has_no_frames(
    site: RetrieveSite, dicom_file: Files
) -> None:
    data_set = pydicom.dcmread(dicom_file("CT_small.dcm"))
    del data_set.Rows
    path = resource_of(await site.store(with_uid(data_set, "1.2.5")))
    answer = await site.get(f"{path}/frames/1", ANY_PARTS)
    assert answer.status == 404
    assert answer.detail == "Rows, Columns or Bits Allocated is missing"

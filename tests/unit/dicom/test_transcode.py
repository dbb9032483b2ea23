"""Pixels into another transfer syntax: bit for bit the same, judged by other people's decoders."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, parse_basic_offsets
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from imaging_ingestion.dicom import image_codec
from imaging_ingestion.dicom.header import ScanError
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dicom.transcode import NATIVE, TranscodeError, targets, transcode
from imaging_ingestion.dicom.transfer_syntax import is_encapsulated, is_lossy

EXPLICIT, IMPLICIT, DEFLATED, BIG = NATIVE
RLE, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
JPEG = "1.2.840.10008.1.2.4."
#: The same CT image in everything that loses nothing.
CT = "CTImage.dcm_{}TransferSyntax_1.2.840.10008.1.2{}.dcm"
CT_LOSSLESS = (
    CT.format("RLELossless", ".5"),
    CT.format("JPEGProcess14", ".4.57"),
    CT.format("JPEGProcess14SV1", ".4.70"),
    CT.format("JPEGLSLossless", ".4.80"),
    CT.format("JPEG2000LosslessOnly", ".4.90"),
    CT.format("DeflatedExplicitVRLittleEndian", ".1.99"),
    CT.format("BigEndianExplicit", ".2"),
)
#: dcmtk's decoders, without conversion of colours.
DCMTK = {
    RLE: ["dcmdrle"],
    **{JPEG + suffix: ["dcmdjpeg", "+cn"] for suffix in ("50", "57", "70")},
    JPEG + "80": ["dcmdjpls"],
}


def taken_apart(path: Path) -> tuple[str, bytes]:
    """Transfer syntax and data set of a file. Raises ScanError."""
    content = path.read_bytes()
    header = scan_bytes(content)
    return header.transfer_syntax_uid, content[header.dataset_offset :]


def transcoded(data: bytes, source: str, target: str) -> bytes:
    out = io.BytesIO()
    transcode(io.BytesIO(data), source, out, target)
    return out.getvalue()


def read(data: bytes, syntax: str) -> Dataset:
    return pydicom.dcmread(io.BytesIO(file_meta("1.2.3", "1.2.3", syntax) + data))


def transcoded_file(path: Path, target: str) -> Dataset:
    source, data = taken_apart(path)
    return read(transcoded(data, source, target), target)


def pixels(dataset: Dataset) -> np.ndarray:
    """The samples, colour by pixel."""
    found, _ = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, raw=True)
    return found


def compressed_files(dicom_files: list[Path], *, lossy: bool) -> list[Path]:
    """Those with pixels that can be decoded here."""
    found = []
    for path in dicom_files:
        try:
            header = scan_bytes(path.read_bytes())
        except ScanError:
            continue
        uid = header.transfer_syntax_uid
        is_one = is_encapsulated(uid) and is_lossy(uid) == lossy and header.pixel_data is not None
        if is_one and image_codec.can_decode(uid) and "I_0000" not in path.name:
            found.append(path)
    return found


# --- lossless pixels


@pytest.mark.parametrize("name", CT_LOSSLESS)
@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, BIG, DEFLATED, RLE, J2K])
def test_one_image_in_many_transfer_syntaxes_is_one_image(
    dicom_file: Callable[[str], Path], name: str, target: str
) -> None:
    original = pydicom.dcmread(dicom_file(CT.format("LittleEndianExplicit", ".1")))
    source, data = taken_apart(dicom_file(name))
    if source == target:
        return
    found = read(transcoded(data, source, target), target)
    assert np.array_equal(pixels(found), pixels(original))
    if target in (EXPLICIT, IMPLICIT, DEFLATED):
        assert found.PixelData == original.PixelData


def test_every_lossless_file_is_decoded_as_pydicom_decodes_it(  # W7
    dicom_files: list[Path],
) -> None:
    checked = set()
    for path in compressed_files(dicom_files, lossy=False):
        source, _ = taken_apart(path)
        original = pydicom.dcmread(path, force=True)
        if original.BitsAllocated == 1:
            continue  # see below
        found = transcoded_file(path, EXPLICIT)
        assert np.array_equal(pixels(found), pixels(original)), path
        checked.add(source)
    assert {RLE, J2K, *(JPEG + suffix for suffix in ("57", "70", "80", "201"))} <= checked


def test_every_file_is_decoded_as_dcmtk_decodes_it(dicom_files: list[Path], tmp_path: Path) -> None:
    checked = set()
    every = [*compressed_files(dicom_files, lossy=False)]
    every += [path for path in compressed_files(dicom_files, lossy=True) if "_rgb_" in path.name]
    theirs = tmp_path / "theirs.dcm"
    for path in every:
        source, _ = taken_apart(path)
        if source not in DCMTK or pydicom.dcmread(path, force=True).BitsAllocated == 1:
            continue
        done = subprocess.run([*DCMTK[source], path, theirs], capture_output=True, check=False)
        if done.returncode != 0:
            continue  # dcmtk 3.6.7 does not know everything
        expected = pydicom.dcmread(theirs)
        found = transcoded_file(path, EXPLICIT)
        assert np.array_equal(pixels(found), pixels(expected)), path
        assert found.PhotometricInterpretation == expected.PhotometricInterpretation, path
        checked.add(source)
    assert checked == set(DCMTK)


@pytest.mark.parametrize(
    ("name", "plugin"),
    [
        ("MR_small_jp2klossless.dcm", "gdcm"),
        ("emri_small_jpeg_2k_lossless.dcm", "pillow"),
        ("examples_jpeg2k.dcm", "gdcm"),
        ("JPEG2000Lossless.dcm", "pillow"),
        ("slicethickness_empty_string.dcm", "pillow"),
        ("emri_small_RLE.dcm", "pydicom"),
        ("OBXXXX1A_rle_2frame.dcm", "pydicom"),
        ("YBR_FULL-RLE.dcm", "pydicom"),
        ("MR2_J2KI.dcm", "gdcm"),
    ],
)
def test_another_decoder_gives_the_same(
    dicom_file: Callable[[str], Path], name: str, plugin: str
) -> None:
    dataset = pydicom.dcmread(dicom_file(name))
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    expected, _ = decoder.as_array(dataset, raw=True, decoding_plugin=plugin)
    assert np.array_equal(pixels(transcoded_file(dicom_file(name), EXPLICIT)), expected)


@pytest.mark.parametrize("name", ["liver_rle.dcm", "liver_deflate.dcm"])
@pytest.mark.parametrize("target", NATIVE)
def test_single_bits_are_decoded(dicom_file: Callable[[str], Path], name: str, target: str) -> None:
    original = pydicom.dcmread(dicom_file("liver.dcm"))
    found = transcoded_file(dicom_file(name), target)
    assert np.array_equal(found.pixel_array, original.pixel_array)


def test_frames_of_single_bits_are_joined_without_gaps() -> None:  # PS3.5 8.1.1
    frames = [np.arange(i, i + 15) % 3 == 0 for i in range(5)]
    dataset = image(rows=3, columns=5, bits=1, frames=5)
    packed = [np.packbits(frame, bitorder="little").tobytes() for frame in frames]
    dataset.PixelData = encapsulate(packed)
    dataset["PixelData"].VR = "OB"
    encapsulated = "1.2.840.10008.1.2.1.98"
    data = encoded(dataset, encapsulated)
    found = read(transcoded(data, encapsulated, EXPLICIT), EXPLICIT)
    assert np.array_equal(found.pixel_array.reshape(5, 15), frames)


# --- what goes with the pixels


def image(
    *,
    rows: int = 2,
    columns: int = 2,
    bits: int = 16,
    stored: int | None = None,
    frames: int = 1,
    signed: bool = False,
    samples: int = 1,
    photometric: str = "MONOCHROME2",
) -> Dataset:
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.3"
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = photometric
    if samples > 1:
        dataset.PlanarConfiguration = 0
    dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored = bits, stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(signed)
    return dataset


def encoded(dataset: Dataset, syntax: str) -> bytes:
    """The data set's bytes, as pydicom writes them."""
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.3"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    return content[scan_bytes(content).dataset_offset :]


@pytest.mark.parametrize(
    ("name", "photometric"),
    [
        ("examples_jpeg2k.dcm", "RGB"),  # YBR_RCT
        ("JPEG2000Lossless.dcm", "RGB"),  # YBR_ICT
        ("examples_ybr_color.dcm", "YBR_FULL"),  # YBR_FULL_422
        ("SC_rgb_jpeg_dcmtk.dcm", "YBR_FULL"),
        ("YBR_FULL-RLE.dcm", "YBR_FULL"),
        ("SC_rgb_jpeg_gdcm.dcm", "RGB"),
        ("SC_rgb_rle_2frame.dcm", "RGB"),
        ("OBXXXX1A_rle_2frame.dcm", "PALETTE COLOR"),
    ],
)
@pytest.mark.parametrize("target", [EXPLICIT, IMPLICIT, BIG])
def test_the_colour_space_is_what_the_pixels_are_in(  # W7
    dicom_file: Callable[[str], Path], name: str, photometric: str, target: str
) -> None:
    found = transcoded_file(dicom_file(name), target)
    assert found.PhotometricInterpretation == photometric
    assert found.get("PlanarConfiguration") == (0 if found.SamplesPerPixel > 1 else None)
    frames = int(found.get("NumberOfFrames", 1))
    length = frames * found.Rows * found.Columns * found.SamplesPerPixel * found.BitsAllocated // 8
    assert len(found.PixelData) == length + length % 2


def test_nothing_else_changes(dicom_files: list[Path]) -> None:
    ours = {0x00280004, 0x00280006, 0x7FE00001, 0x7FE00002, 0x7FE00010}
    for path in compressed_files(dicom_files, lossy=False):
        source, data = taken_apart(path)
        found = transcoded(data, source, EXPLICIT)
        before = scan_bytes(file_meta("1.2", "1.2", source) + data).elements
        after = scan_bytes(file_meta("1.2", "1.2", EXPLICIT) + found).elements
        changed = {tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag)}
        icons = {tag for tag in changed if tag == 0x00880200}
        assert changed - icons <= ours, path


def test_lossy_pixels_are_decoded_once_and_go_on_saying_so(
    dicom_file: Callable[[str], Path],
) -> None:
    found = transcoded_file(dicom_file("JPEG2000.dcm"), EXPLICIT)
    original = pydicom.dcmread(dicom_file("JPEG2000.dcm"))
    assert found.LossyImageCompression == original.LossyImageCompression == "01"
    assert np.array_equal(pixels(found), pixels(original))


def test_every_lossy_file_is_decoded_or_refused(dicom_files: list[Path]) -> None:
    decoded = refused = 0
    for path in compressed_files(dicom_files, lossy=True):
        try:
            found = transcoded_file(path, EXPLICIT)
        except TranscodeError:
            refused += 1
            continue
        decoded += 1
        assert np.array_equal(pixels(found), pixels(pydicom.dcmread(path, force=True))), path
    assert decoded > 8
    assert refused < decoded


@pytest.mark.parametrize(
    "name", ["JPEGwithIcon.dcm", "GH133.dcm", "slicethickness_empty_string.dcm"]
)
def test_icons_are_readable_afterwards(dicom_file: Callable[[str], Path], name: str) -> None:
    found = transcoded_file(dicom_file(name), EXPLICIT)
    (icon,) = found.IconImageSequence
    icon.file_meta = found.file_meta
    length = icon.Rows * icon.Columns * icon.SamplesPerPixel * icon.BitsAllocated // 8
    assert len(icon.PixelData) in (length, length + length % 2)


def test_a_compressed_icon_is_decompressed(dicom_file: Callable[[str], Path]) -> None:
    rle = pydicom.dcmread(dicom_file("MR_small_RLE.dcm"))
    icon = image(rows=64, columns=64, signed=True)
    icon.PixelData = rle.PixelData
    icon["PixelData"].VR = "OB"
    icon["PixelData"].is_undefined_length = True
    rle.IconImageSequence = [icon]
    data = encoded(rle, RLE)
    for target in (EXPLICIT, IMPLICIT, BIG, J2K):
        found = read(transcoded(data, RLE, target), target)
        (nested,) = found.IconImageSequence
        expected = pydicom.dcmread(dicom_file("MR_small.dcm")).pixel_array
        order = ">" if target == BIG else "<"
        words = np.frombuffer(nested.PixelData, order + "i2").reshape(64, 64)
        assert np.array_equal(words, expected)
        assert np.array_equal(pixels(found), expected)


def test_extended_offset_tables_go_with_the_fragments() -> None:
    frames = [bytes([i]) * 8 for i in range(4)]
    dataset = image(frames=4)
    from pydicom.encaps import encapsulate_extended

    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
        encapsulate_extended(frames)
    )
    dataset["PixelData"].VR = "OB"
    encapsulated = "1.2.840.10008.1.2.1.98"
    found = read(transcoded(encoded(dataset, encapsulated), encapsulated, EXPLICIT), EXPLICIT)
    assert "ExtendedOffsetTable" not in found
    assert "ExtendedOffsetTableLengths" not in found
    assert found.PixelData == b"".join(frames)


def test_an_object_without_pixels_changes_only_its_encoding() -> None:
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.3"
    data = encoded(dataset, EXPLICIT)
    for target in (RLE, J2K):
        assert transcoded(data, EXPLICIT, target) == data
        assert transcoded(data, target, EXPLICIT) == data


# --- samples and their signs


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (16, 16), (16, 12), (8, 6)])
@pytest.mark.parametrize("target", [RLE, J2K])
@pytest.mark.parametrize("source", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_compressed_pixels_come_back(
    signed: bool, bits: int, stored: int, target: str, source: str
) -> None:
    least, most = (
        (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    )
    values = np.random.default_rng(1).integers(least, most + 1, (3, 64, 48))
    values[0, 0, :2] = least, most
    words = values.astype(f"<{'i' if signed else 'u'}{bits // 8}")
    dataset = image(rows=64, columns=48, bits=bits, stored=stored, frames=3, signed=signed)
    dataset.PixelData = words.tobytes()
    dataset["PixelData"].VR = "OW"
    explicit = encoded(dataset, EXPLICIT)
    data = explicit if source == EXPLICIT else transcoded(explicit, EXPLICIT, source)
    compressed = transcoded(data, source, target)
    assert np.array_equal(pixels(read(compressed, target)), words)
    back = transcoded(compressed, target, source)
    if source == EXPLICIT:
        assert read(back, EXPLICIT).PixelData == words.tobytes()
    assert np.array_equal(pixels(read(transcoded(back, source, J2K), J2K)), words)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("target", [RLE, J2K])
def test_colours_by_plane_are_compressed_rightly(planar: int, target: str) -> None:
    values = np.random.default_rng(2).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    dataset = image(rows=64, columns=64, bits=8, frames=2, samples=3, photometric="RGB")
    dataset.PlanarConfiguration = planar
    stored = values if planar == 0 else values.transpose(0, 3, 1, 2)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OB"
    data = encoded(dataset, EXPLICIT)
    found = read(transcoded(data, EXPLICIT, target), target)
    assert found.PlanarConfiguration == (1 if target == RLE else 0)
    assert found.PhotometricInterpretation == "RGB"
    assert np.array_equal(pixels(found), values)


def test_several_frames_have_a_basic_offset_table(dicom_file: Callable[[str], Path]) -> None:
    found = transcoded_file(dicom_file("emri_small_jpeg_2k_lossless.dcm"), RLE)
    offsets = parse_basic_offsets(found.PixelData)
    assert len(offsets) == found.NumberOfFrames == 10
    base = 8 + 4 * 10
    for offset in offsets:
        assert struct.unpack_from("<HH", found.PixelData, base + offset) == (0xFFFE, 0xE000)


def test_an_odd_number_of_bytes_is_padded() -> None:
    dataset = image(rows=3, columns=5, bits=8)
    dataset.PixelData = encapsulate([bytes(range(15))])
    dataset["PixelData"].VR = "OB"
    encapsulated = "1.2.840.10008.1.2.1.98"
    found = read(transcoded(encoded(dataset, encapsulated), encapsulated, EXPLICIT), EXPLICIT)
    assert found.PixelData == bytes(range(15)) + b"\0"


# --- what cannot be done


def test_an_overlay_in_the_unused_bits_is_not_mixed_into_jpeg_2000(
    dicom_file: Callable[[str], Path],
) -> None:
    source, data = taken_apart(dicom_file("ovly_p01.dcm"))
    with pytest.raises(TranscodeError, match="above Bits Stored"):
        transcoded(data, source, J2K)
    found = read(transcoded(data, source, RLE), RLE)
    assert read(transcoded(encoded(found, RLE), RLE, EXPLICIT), EXPLICIT).PixelData == (
        pydicom.dcmread(dicom_file("ovly_p01.dcm")).PixelData
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("JPEG2000-embedded-sequence-delimiter.dcm", "a frame cannot be decoded"),  # cut off
        ("multiframe.dcm", "a frame cannot be decoded"),  # frames of another size
        ("JPGExtended.dcm", "12-bit"),
        (CT.format("JPEGProcess6_8", ".4.53"), "no way leads"),
    ],
)
def test_what_cannot_be_decoded_is_told(
    dicom_file: Callable[[str], Path], name: str, reason: str
) -> None:
    with pytest.raises(TranscodeError, match=reason):
        transcoded_file(dicom_file(name), EXPLICIT)


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.110", "1.2.3"])
def test_video_and_unknown_transfer_syntaxes_lead_nowhere(uid: str) -> None:
    assert targets(uid) == ()


def test_targets_are_the_plain_ones_first() -> None:
    assert targets(EXPLICIT) == (IMPLICIT, DEFLATED, BIG, RLE, J2K)
    assert targets(J2K) == (EXPLICIT, IMPLICIT, DEFLATED, BIG, RLE)
    assert targets(JPEG + "70")[0] == EXPLICIT
    assert EXPLICIT not in targets("1.2.840.10008.1.2.4.95")


def test_without_codecs_only_the_encoding_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_codec, "find_spec", lambda name: None)
    assert targets(EXPLICIT) == (IMPLICIT, DEFLATED, BIG)
    assert targets(J2K) == ()
    assert targets("1.2.840.10008.1.2.1.98") == NATIVE


def test_pixels_that_would_take_the_memory_are_refused() -> None:
    dataset = image(rows=65535, columns=65535)
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    with pytest.raises(TranscodeError, match="too large"):
        transcoded(encoded(dataset, JPEG + "70"), JPEG + "70", EXPLICIT)


@pytest.mark.parametrize("missing", ["Rows", "BitsAllocated"])
def test_an_image_that_does_not_say_what_it_is_is_refused(missing: str) -> None:
    dataset = image()
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    del dataset[missing]
    with pytest.raises(TranscodeError, match="missing"):
        transcoded(encoded(dataset, JPEG + "70"), JPEG + "70", EXPLICIT)


@pytest.mark.parametrize("cut", [1, 10, 100, 1000])
def test_a_truncated_data_set_is_refused(dicom_file: Callable[[str], Path], cut: int) -> None:
    source, data = taken_apart(dicom_file("MR_small_RLE.dcm"))
    with pytest.raises(TranscodeError):
        transcoded(data[:-cut], source, EXPLICIT)

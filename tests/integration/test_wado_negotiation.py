"""WADO-RS over HTTP: which representation answers an Accept header (PS3.18 8.7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from retrieve_site import AS_STORED, RetrieveSite, resource_of, retrieve_site

from imaging_ingestion.dicomweb.service import DicomwebSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELE = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
RLE = "1.2.840.10008.1.2.5"

MULTIPART = 'multipart/related; type="application/dicom"'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RetrieveSite]:
    """A site whose instances are only read once they are stored."""
    async with retrieve_site(tmp_path_factory.mktemp("negotiation")) as running:
        yield running


@pytest.fixture
def ct(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


async def test_what_is_stored_as_explicit_vr_little_endian_leaves_so(
    plain: RetrieveSite, ct: Path
) -> None:
    # W2, W4
    path = resource_of(await plain.store_file(ct))
    for accept in (MULTIPART, f"{MULTIPART}; transfer-syntax={ELE}", AS_STORED):
        answer = await plain.get(path, accept)
        assert answer.parts[0].body == ct.read_bytes()  # noqa: ASYNC240


# W2, W3: to make Explicit VR Little Endian of them comes in a later version.
@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("MR_small_implicit.dcm", IMPLICIT),
        ("MR_small_bigendian.dcm", BIG_ENDIAN),
        ("image_dfl.dcm", DEFLATED),
        ("MR_small_RLE.dcm", RLE),
        ("MR_small_jp2klossless.dcm", JPEG_2000_LOSSLESS),
    ],
)
async def test_what_would_have_to_be_transcoded_is_not_implemented_and_leaves_as_stored(
    plain: RetrieveSite, dicom_file: Callable[[str], Path], name: str, syntax: str
) -> None:
    path = resource_of(await plain.store_file(dicom_file(name)))
    for accept in (None, MULTIPART, f"{MULTIPART}; transfer-syntax={ELE}", "application/dicom"):
        answer = await plain.get(path, accept)
        assert answer.status == 501
        assert "ask for what is stored with transfer-syntax=*" in answer.detail
        assert syntax in answer.detail
    for accept in (AS_STORED, AS_STORED.replace("*", '"*"'), f'{MULTIPART};transfer-syntax="*"'):
        answer = await plain.get(path, accept)  # H8
        assert answer.status == 200
        (part,) = answer.parts
        assert part.headers["Content-Type"] == f"application/dicom; transfer-syntax={syntax}"
        assert part.body == dicom_file(name).read_bytes()


async def test_pixels_stored_with_loss_leave_as_they_are(
    plain: RetrieveSite, dicom_file: Callable[[str], Path]
) -> None:
    # W2: the exception of 8.7.3.4
    file = dicom_file("JPEG2000.dcm")
    path = resource_of(await plain.store_file(file))
    for accept in (None, MULTIPART, f"{MULTIPART}; transfer-syntax={JPEG_2000}"):
        answer = await plain.get(path, accept)
        (part,) = answer.parts
        assert part.headers["Content-Type"] == f"application/dicom; transfer-syntax={JPEG_2000}"
        assert part.body == file.read_bytes()


# W4, H5, H6
@pytest.mark.parametrize(
    ("syntax", "status"),
    [(ELE, 200), ("*", 200), (JPEG, 501), (DEFLATED, 501), ("1.2.3.4", 406), ("JPEG", 406)],
)
async def test_a_transfer_syntax_is_served_exactly_or_not_at_all(
    plain: RetrieveSite, ct: Path, syntax: str, status: int
) -> None:
    path = resource_of(await plain.store_file(ct))
    answer = await plain.get(path, f"{MULTIPART}; transfer-syntax={syntax}")
    assert answer.status == status
    if status == 406:
        assert answer.json["available"] == [
            f"{MULTIPART}; transfer-syntax=*",
            "application/dicom; transfer-syntax=*",
        ]


async def test_of_several_entries_the_best_that_can_be_served_is(
    plain: RetrieveSite, dicom_file: Callable[[str], Path]
) -> None:
    # W5, H4, H5
    path = resource_of(await plain.store_file(dicom_file("MR_small_RLE.dcm")))
    accept = (
        f"image/nonsense, {MULTIPART}; transfer-syntax={ELE}; q=1.0, "
        f"application/dicom; transfer-syntax={RLE}; q=0.3, "
        f"{MULTIPART}; transfer-syntax={RLE}; q=0.7; what=ever, "
        f"{MULTIPART}; transfer-syntax={JPEG}; q=0.9"
    )
    (part,) = (await plain.get(path, accept)).parts
    assert part.headers["Content-Type"] == f"application/dicom; transfer-syntax={RLE}"
    answer = await plain.get(path, accept.replace("q=0.3", "q=0.8"))
    assert answer.headers["Content-Type"] == f"application/dicom; transfer-syntax={RLE}"


async def test_one_instance_may_be_had_as_a_bare_file_and_more_may_not(
    plain: RetrieveSite, ct: Path
) -> None:
    # W6
    received = await plain.store_file(ct)
    path = resource_of(received)
    for accept in ("application/dicom", "application/*", "application/dicom; transfer-syntax=*"):
        answer = await plain.get(path, accept)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == f"application/dicom; transfer-syntax={ELE}"
        assert answer.headers["Content-Location"] == plain.url + path
        assert answer.body == ct.read_bytes()  # noqa: ASYNC240
    for above in (path.partition("/instances")[0], path.partition("/series")[0]):
        answer = await plain.get(above, "application/dicom")
        assert answer.status == 406
        assert answer.json["available"] == [f"{MULTIPART}; transfer-syntax=*"]


# H2
@pytest.mark.parametrize(
    "accept",
    [
        "application/dicom",
        "application/dicom;transfer-syntax=*",
        "application%2Fdicom%3Btransfer-syntax%3D%2A",
        "application/dicom;+transfer-syntax=*",
    ],
)
async def test_the_accept_parameter_goes_before_the_header(
    plain: RetrieveSite, ct: Path, accept: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    answer = await plain.get(f"{path}?accept={accept}", MULTIPART)
    assert answer.headers["Content-Type"].startswith("application/dicom;")
    answer = await plain.get(f"{path}/metadata?accept=application/dicom+json", "image/png")
    assert answer.headers["Content-Type"] == "application/dicom+json"


async def test_the_accept_parameter_has_no_wildcards_and_a_case(
    plain: RetrieveSite, ct: Path
) -> None:
    # H2, H10
    path = resource_of(await plain.store_file(ct))
    assert (await plain.get(f"{path}?accept=*/*")).status == 406
    answer = await plain.get(f"{path}?Accept=image/png", "application/dicom")  # not ours: ignored
    assert answer.status == 200


async def test_no_accept_header_is_the_default_type_or_refused_by_a_strict_site(
    tmp_path: Path, ct: Path
) -> None:
    # H1
    async with retrieve_site(tmp_path, settings=DicomwebSettings(strict_accept=True)) as site:
        path = resource_of(await site.store_file(ct))
        for resource in (path, f"{path}/metadata", f"{path}/frames/1", "/studies"):
            assert (await site.get(resource)).status == 406
            assert (await site.get(resource, "*/*")).status == 200


# H3
@pytest.mark.parametrize(
    "accept",
    [
        "application/dicom, image/png",
        "multipart/related; type=application/dicom, text/html",
        "application/dicom+json, application/pdf",
    ],
)
async def test_dicom_and_rendered_media_types_do_not_go_together(
    plain: RetrieveSite, ct: Path, accept: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    for resource in (path, f"{path}/metadata", f"{path}/frames/1", "/studies"):
        answer = await plain.get(resource, accept)
        assert answer.status == 400
        assert "ask for one kind" in answer.detail


# H4
@pytest.mark.parametrize(
    ("accept", "single"),
    [
        ("application/dicom; q=0.5, multipart/related; type=application/dicom; q=0.6", False),
        ("application/dicom; q=0.6, multipart/related; type=application/dicom; q=0.5", True),
        # The most specific entry tells what a type is worth, not the widest.
        ("*/*; q=0.9, multipart/related; type=application/dicom; q=0.1", True),
        ("*/*, multipart/related; type=application/dicom; q=0", True),
        ("multipart/*, application/dicom; q=0.1", False),
        ("application/*; q=0.8, application/dicom; q=0.2, multipart/related; q=0.5", False),
        ("application/dicom; transfer-syntax=*; q=0.9, multipart/related; q=0.5, */*; q=1", True),
        ("application/dicom; q=0, */*; q=0.1", False),
        ("*/*; q=0, application/dicom; q=0.001", True),
    ],
)
async def test_weights_tell_the_representation(
    plain: RetrieveSite, ct: Path, accept: str, single: bool
) -> None:
    path = resource_of(await plain.store_file(ct))
    answer = await plain.get(path, accept)
    assert answer.status == 200
    expected = "application/dicom" if single else "multipart/related"
    assert answer.headers["Content-Type"].startswith(expected)


# H4, H6
@pytest.mark.parametrize(
    "accept",
    [
        "application/dicom; q=0",
        "*/*; q=0",
        "application/dicom; q=0, multipart/related; q=0, */*",
        "image/png",
        "application/dicom+json",
        'multipart/related; type="image/jpeg"',
        # H9: which of the two?
        f"application/dicom; transfer-syntax=*; transfer-syntax={ELE}",
    ],
)
async def test_what_is_excluded_or_not_there_is_not_acceptable(
    plain: RetrieveSite, ct: Path, accept: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    answer = await plain.get(path, accept)
    assert answer.status == 406
    assert answer.json["available"]


async def test_an_entry_with_two_transfer_syntaxes_disturbs_no_other(
    plain: RetrieveSite, ct: Path
) -> None:
    # H9
    path = resource_of(await plain.store_file(ct))
    twice = f"application/dicom; transfer-syntax=*; transfer-syntax={ELE}"
    answer = await plain.get(path, f"{twice}, {MULTIPART}; q=0.1")
    assert answer.headers["Content-Type"].startswith(MULTIPART)


# H4, H7
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/json", "application/json"),
        ("application/json, application/dicom+json; q=0.5", "application/json"),
        ("application/json; q=0.5, application/dicom+json", "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"', "multipart/related"),
        ("multipart/related; type=application/dicom+xml, */*; q=0.1", "multipart/related"),
        ("application/dicom+json; q=0.1, multipart/related; q=0.2", "multipart/related"),
        ("*/*, application/dicom+json; q=0", "multipart/related"),
        ("text/x, application/dicom+json; q=0.3; charset=utf-8", "application/dicom+json"),
    ],
)
async def test_metadata_and_results_come_as_the_client_prefers(
    plain: RetrieveSite, ct: Path, accept: str | None, expected: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    for resource in (f"{path}/metadata", "/studies"):
        answer = await plain.get(resource, accept)
        assert answer.status == 200
        assert answer.headers["Content-Type"].partition(";")[0] == expected


async def test_a_parameter_that_means_nothing_here_is_ignored(
    plain: RetrieveSite, ct: Path
) -> None:
    # H10
    path = resource_of(await plain.store_file(ct))
    for resource in (path, f"{path}/metadata", f"{path}/frames/1", f"{path}/bulkdata/7FE00010"):
        answer = await plain.get(f"{resource}?viewport=1,1&foo=%FF&bar", "*/*")
        assert answer.status == 200
        assert answer.headers["ETag"] == (await plain.get(resource, "*/*")).headers["ETag"]


# W13
@pytest.mark.parametrize("below", ["/bulkdata", "/pixeldata", "/nothing"])
async def test_there_is_no_other_resource(plain: RetrieveSite, ct: Path, below: str) -> None:
    path = resource_of(await plain.store_file(ct))
    for level in (path, path.partition("/instances")[0], path.partition("/series")[0]):
        answer = await plain.get(level + below)
        assert answer.status == 404
        assert answer.detail

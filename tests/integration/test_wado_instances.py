"""WADO-RS over HTTP: studies, series and instances as they are stored (PS3.18 10.4)."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pydicom
import pytest
from instances import with_uids
from retrieve_site import AS_STORED, Answer, RetrieveSite, resource_of, retrieve_site
from statements import recorded_statements

ELE = "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"

MULTIPART = 'multipart/related; type="application/dicom"'


@pytest.fixture
async def site(tmp_path: Path, database_url: str) -> AsyncIterator[RetrieveSite]:
    async with retrieve_site(tmp_path, database_url=database_url) as running:
        yield running


@pytest.fixture
async def plain(tmp_path: Path) -> AsyncIterator[RetrieveSite]:
    """A site on SQLite, for what has nothing to do with the database."""
    async with retrieve_site(tmp_path) as running:
        yield running


@pytest.fixture
def ct(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


def uids(answer: Answer) -> list[str]:
    """The SOP Instance UIDs of the parts, each of which is a file that pydicom reads."""
    found = []
    for part in answer.parts:
        assert part.body[128:132] == b"DICM"
        data_set = pydicom.dcmread(io.BytesIO(part.body))
        assert part.headers["Content-Type"] == (
            f"application/dicom; transfer-syntax={data_set.file_meta.TransferSyntaxUID}"
        )
        assert part.headers["Content-Location"].endswith(
            f"/studies/{data_set.StudyInstanceUID}/series/{data_set.SeriesInstanceUID}"
            f"/instances/{data_set.SOPInstanceUID}"
        )
        found.append(str(data_set.SOPInstanceUID))
    return found


async def test_each_level_has_a_part_for_each_of_its_instances(
    site: RetrieveSite, ct: Path
) -> None:
    # W1, H7, H16, H17
    for series, sop in (("1.2.1", "1.2.1.1"), ("1.2.1", "1.2.1.2"), ("1.2.2", "1.2.2.1")):
        await site.store(with_uids(ct, "1.2", series, sop))
    await site.store(with_uids(ct, "1.3", "1.3.1", "1.3.1.1"))
    expected = {
        "/studies/1.2": ["1.2.1.1", "1.2.1.2", "1.2.2.1"],
        "/studies/1.2/series/1.2.1": ["1.2.1.1", "1.2.1.2"],
        "/studies/1.2/series/1.2.1/instances/1.2.1.2": ["1.2.1.2"],
    }
    for path, found in expected.items():
        for accept in (MULTIPART, None, "*/*", "multipart/related", "multipart/*"):
            answer = await site.get(path, accept)
            assert answer.status == 200
            assert uids(answer) == found
            assert f"{site.url}{path}" in answer.parts[0].headers["Content-Location"]


async def test_a_study_of_several_transfer_syntaxes_is_served_if_all_of_it_can_be(
    plain: RetrieveSite, ct: Path, dicom_file: Callable[[str], Path]
) -> None:
    # W4, W5
    await plain.store(with_uids(ct, "1.2", "1.2.1", "1.2.1.1"))
    await plain.store(with_uids(dicom_file("JPEG2000.dcm"), "1.2", "1.2.1", "1.2.1.2"))
    assert uids(await plain.get("/studies/1.2", AS_STORED)) == ["1.2.1.1", "1.2.1.2"]
    assert uids(await plain.get("/studies/1.2")) == ["1.2.1.1", "1.2.1.2"]  # the second has loss
    await plain.store(with_uids(dicom_file("MR_small_RLE.dcm"), "1.2", "1.2.1", "1.2.1.3"))
    assert (await plain.get("/studies/1.2")).status == 501
    assert (await plain.get("/studies/1.2", f"{MULTIPART}; transfer-syntax={RLE}")).status == 501
    assert len((await plain.get("/studies/1.2", AS_STORED)).parts) == 3


# W1: an object without preamble or file meta leaves with them (PS3.10 7.1).
@pytest.mark.parametrize("start", [128, 132])
async def test_a_data_set_that_came_bare_leaves_as_a_file(
    plain: RetrieveSite, ct: Path, start: int
) -> None:
    whole = ct.read_bytes()  # noqa: ASYNC240
    meta_length = int.from_bytes(whole[140:144], "little") + 12
    for bare in (whole[start:], whole[132 + meta_length :]):
        received = await plain.store(bare)
        (part,) = (await plain.get(resource_of(received), AS_STORED)).parts
        assert part.body[:132] == bytes(128) + b"DICM"
        assert part.body.endswith(whole[132 + meta_length :])
        made = pydicom.dcmread(io.BytesIO(part.body))
        assert made.file_meta.TransferSyntaxUID == ELE
        assert made.file_meta.MediaStorageSOPInstanceUID == received.sop_instance_uid
        single = await plain.get(resource_of(received), "application/dicom")
        assert single.body == part.body
        middle = await plain.get(resource_of(received), "application/dicom", Range="bytes=100-1000")
        assert middle.body == part.body[100:1001]


async def test_payloads_have_a_type_and_either_a_length_or_chunks(
    plain: RetrieveSite, ct: Path
) -> None:
    # H15
    for number in range(6):  # more than are open at once
        await plain.store(with_uids(ct, "1.2", "1.2.1", f"1.2.1.{number}"))
    path = "/studies/1.2/series/1.2.1/instances/1.2.1.1"
    for resource in (
        "/studies",
        "/studies/1.2/metadata",
        "/studies/1.2",
        path,
        f"{path}/frames/1",
        f"{path}/bulkdata/7FE00010",
        "/studies/1.2.3",  # an error has a payload, too
        "/nothing",
    ):
        answer = await plain.get(resource)
        assert answer.body
        assert answer.headers["Content-Type"]
        chunked = answer.headers.get("Transfer-Encoding") == "chunked"
        assert chunked != ("Content-Length" in answer.headers), resource
        if not chunked:
            assert int(answer.headers["Content-Length"]) == len(answer.body)


async def test_head_has_the_headers_of_get_and_no_body(plain: RetrieveSite, ct: Path) -> None:
    # H20
    path = resource_of(await plain.store_file(ct))
    for resource, accept in (
        ("/studies", None),
        (path, "application/dicom"),
        (path, MULTIPART),
        (f"{path}/metadata", None),
        (f"{path}/frames/1", None),
        (f"{path}/bulkdata/7FE00010", "application/octet-stream"),
        (path, "image/png"),
        ("/studies/1.2.3", None),
    ):
        get = await plain.get(resource, accept)
        head = await plain.get(resource, accept, "HEAD")
        assert head.status == get.status
        assert head.body == b""
        wanted = {name.lower(): value for name, value in get.headers.items()}
        found = {name.lower(): value for name, value in head.headers.items()}
        assert set(wanted) - {"transfer-encoding"} <= set(found)
        for name in ("content-length", "etag", "content-location", "vary"):
            assert found.get(name) == wanted.get(name), (resource, name)


# W30, H14
@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/studies/1.9", "study"),
        ("/studies/1.9/metadata", "study"),
        ("/studies/1.2/series/1.9", "series"),
        ("/studies/1.2/series/1.3.1", "series"),  # of another study
        ("/studies/1.2/series/1.2.1/instances/1.9", "instance"),
        ("/studies/1.2/series/1.2.2/instances/1.2.1.1", "instance"),  # of another series
        ("/studies/1.3/series/1.2.1/instances/1.2.1.1", "series"),
        ("/studies/1.2/series/1.2.1/instances/1.9/frames/1", "instance"),
        ("/studies/1.2/series/1.2.1/instances/1.9/bulkdata/7FE00010", "instance"),
        ("/studies/1.2/series/1.2.1/instances/1.9/metadata", "instance"),
    ],
)
async def test_what_is_not_there_is_not_found(
    site: RetrieveSite, ct: Path, path: str, missing: str
) -> None:
    for study, series, sop in (
        ("1.2", "1.2.1", "1.2.1.1"),
        ("1.2", "1.2.2", "1.2.2.1"),
        ("1.3", "1.3.1", "1.3.1.1"),
    ):
        await site.store(with_uids(ct, study, series, sop))
    answer = await site.get(path)
    assert answer.status == 404
    assert answer.detail == f"the {missing} is not known in space 'default'"


# W30
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/studies/abc", "study"),
        ("/studies/1..2/metadata", "study"),
        ("/studies/.1", "study"),
        ("/studies/1.", "study"),
        ("/studies/" + "1" * 65, "study"),
        ("/studies/1.2/series/x", "series"),
        ("/studies/1.2/series/1.2/instances/1%20", "instance"),
        ("/studies/1.2/series/1.2/instances/1,2/frames/1", "instance"),
        ("/studies/%E2%91%A0", "study"),
    ],
)
async def test_a_malformed_uid_is_a_bad_request(plain: RetrieveSite, path: str, name: str) -> None:
    answer = await plain.get(path)
    assert answer.status == 400
    assert answer.detail.startswith(f"the {name} in the path is no UID")


async def test_what_has_been_deleted_is_gone(site: RetrieveSite, ct: Path) -> None:
    # H14, W36
    for series, sop in (("1.2.1", "1.2.1.1"), ("1.2.1", "1.2.1.2"), ("1.2.2", "1.2.2.1")):
        await site.store(with_uids(ct, "1.2", series, sop))
    await site.delete("1.2", "1.2.1", "1.2.1.1")
    gone = "/studies/1.2/series/1.2.1/instances/1.2.1.1"
    for below in ("", "/metadata", "/frames/1", "/bulkdata/7FE00010"):
        answer = await site.get(gone + below)
        assert answer.status == 410
        assert answer.detail == "the instance has been deleted from space 'default'"
    assert uids(await site.get("/studies/1.2")) == ["1.2.1.2", "1.2.2.1"]
    await site.delete("1.2", "1.2.1")
    assert (await site.get("/studies/1.2/series/1.2.1")).status == 410
    await site.delete("1.2")
    assert (await site.get("/studies/1.2")).status == 410
    assert (await site.get("/studies/1.2/metadata")).status == 410
    await site.store(with_uids(ct, "1.2", "1.2.1", "1.2.1.1"))
    assert uids(await site.get("/studies/1.2")) == ["1.2.1.1"]


# W20 to W29
@pytest.mark.parametrize(
    "below", ["/rendered", "/thumbnail", "/frames/1/rendered", "/frames/1/thumbnail"]
)
async def test_what_comes_in_a_later_version_is_not_implemented(
    plain: RetrieveSite, ct: Path, below: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    levels = [path, path.partition("/instances")[0], path.partition("/series")[0]]
    for level in levels[: 1 if "frames" in below else 3]:
        answer = await plain.get(level + below)
        assert answer.status == 501
        assert "come in a later version" in answer.detail


async def test_other_methods_are_not_allowed(plain: RetrieveSite, ct: Path) -> None:
    # H12, W36
    path = resource_of(await plain.store_file(ct))
    for resource, allowed in (
        (path, {"GET", "HEAD", "DELETE"}),
        (f"{path}/metadata", {"GET", "HEAD"}),
        (f"{path}/frames/1", {"GET", "HEAD"}),
        ("/studies", {"GET", "HEAD", "POST"}),
        ("/series", {"GET", "HEAD"}),
    ):
        answer = await plain.get(resource, method="PUT")
        assert answer.status == 405
        assert set(answer.headers["Allow"].split(", ")) == allowed


# W32
@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-99", 0, 99),
        ("bytes=100-100", 100, 100),
        ("bytes=39000-", 39000, None),
        ("bytes=-10", -10, None),
        ("bytes=39000-999999", 39000, None),
        ("bytes=-999999", 0, None),
    ],
)
async def test_a_range_of_a_bare_file_is_partial_content(
    plain: RetrieveSite, ct: Path, wanted: str, first: int, last: int | None
) -> None:
    path = resource_of(await plain.store_file(ct))
    data = ct.read_bytes()  # noqa: ASYNC240
    answer = await plain.get(path, "application/dicom", Range=wanted)
    expected = data[first:] if last is None else data[first : last + 1]
    assert answer.status == 206
    assert answer.body == expected
    begin = len(data) - len(data[first:])
    assert answer.headers["Content-Range"] == (
        f"bytes {begin}-{begin + len(expected) - 1}/{len(data)}"
    )
    assert answer.headers["Accept-Ranges"] == "bytes"


# W32
@pytest.mark.parametrize("wanted", ["bytes=39206-", "bytes=999999-1000000", "bytes=-0"])
async def test_a_range_behind_the_end_cannot_be_satisfied(
    plain: RetrieveSite, ct: Path, wanted: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    answer = await plain.get(path, "application/dicom", Range=wanted)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */39206"
    assert answer.detail == "the payload has 39206 bytes"


# W32
@pytest.mark.parametrize(
    ("wanted", "accept"),
    [
        ("bytes=5-3", "application/dicom"),
        ("bytes=a-b", "application/dicom"),
        ("bytes=-", "application/dicom"),
        ("bytes=0-1,5-6", "application/dicom"),
        ("items=0-1", "application/dicom"),
        ("bytes=0-99", MULTIPART),
    ],
)
async def test_a_range_that_means_nothing_here_is_ignored(
    plain: RetrieveSite, ct: Path, wanted: str, accept: str
) -> None:
    path = resource_of(await plain.store_file(ct))
    answer = await plain.get(path, accept, Range=wanted)
    assert answer.status == 200
    assert len(answer.body) >= 39206


async def test_a_range_of_another_state_is_the_whole(plain: RetrieveSite, ct: Path) -> None:
    # W32, W33
    path = resource_of(await plain.store_file(ct))
    etag = (await plain.get(path, "application/dicom")).headers["ETag"]
    answer = await plain.get(path, "application/dicom", Range="bytes=0-9", If_Range=etag)
    assert answer.status == 206
    for other in ('"something else"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await plain.get(path, "application/dicom", Range="bytes=0-9", If_Range=other)
        assert answer.status == 200


async def test_an_etag_changes_with_what_it_is_of_and_only_then(
    site: RetrieveSite, ct: Path
) -> None:
    # W33
    study, series = "/studies/1.2", "/studies/1.2/series/1.2.1"
    instance = f"{series}/instances/1.2.1.1"
    for sop in ("1.2.1.1", "1.2.1.2"):
        await site.store(with_uids(ct, "1.2", "1.2.1", sop))
    resources = [
        (study, MULTIPART),
        (f"{study}/metadata", "application/dicom+json"),
        (series, MULTIPART),
        (instance, MULTIPART),
        (instance, "application/dicom"),
        (f"{instance}/metadata", None),
        (f"{instance}/frames/1", None),
        (f"{instance}/bulkdata/7FE00010", None),
    ]

    async def etags() -> list[str]:
        found = []
        for path, accept in resources:
            answer = await site.get(path, accept)
            assert answer.status == 200
            etag = answer.headers["ETag"]
            for same in (etag, f'"x", {etag}', "*", f"W/{etag.removeprefix('W/')}"):
                again = await site.get(path, accept, If_None_Match=same)
                assert (again.status, again.body) == (304, b"")
                assert again.headers["ETag"] == etag
            assert (await site.get(path, accept, If_None_Match='"x"')).status == 200
            found.append(etag)
        return found

    first = await etags()
    assert await etags() == first
    assert len(set(first[2:])) == len(first[2:])  # the study has the instances of its series
    await site.store(with_uids(ct, "1.2", "1.2.1", "1.2.1.3"))  # above the instance: changed
    second = await etags()
    assert [a == b for a, b in zip(first, second, strict=True)] == [False] * 3 + [True] * 5
    await site.store(with_uids(ct, "1.2", "1.2.1", "1.2.1.3"))  # the same bytes: nothing changed
    assert await etags() == second
    changed = bytearray(with_uids(ct, "1.2", "1.2.1", "1.2.1.1"))
    changed[-200] ^= 0xFF
    await site.store(bytes(changed))
    third = await etags()
    assert not set(second) & set(third)
    await site.delete("1.2", "1.2.1", "1.2.1.3")
    fourth = await etags()
    assert [a == b for a, b in zip(third, fourth, strict=True)] == [False] * 3 + [True] * 5


async def test_a_missing_object_fails_the_request_before_its_first_byte(
    plain: RetrieveSite, ct: Path
) -> None:
    # W31: no part of a study passes for all of it
    received = await plain.store(with_uids(ct, "1.2", "1.2.1", "1.2.1.1"))
    await plain.store(with_uids(ct, "1.2", "1.2.1", "1.2.1.2"))
    names = [name async for name in plain.space.names()]
    await plain.space.delete(next(name for name in names if "1.2.1.1" in name))
    path = resource_of(received)
    for resource in ("/studies/1.2", path, f"{path}/frames/1", f"{path}/bulkdata/7FE00010"):
        answer = await plain.get(resource)
        assert answer.status == 500
        assert "the object of instance 1.2.1.1 is missing" in answer.detail
    assert (await plain.get(f"{path}/metadata")).status == 200
    assert (await plain.get("/studies/1.2/series/1.2.1/instances/1.2.1.2")).status == 200


async def test_a_damaged_object_fails_the_request(plain: RetrieveSite, ct: Path) -> None:
    # W31
    path = resource_of(await plain.store_file(ct))
    (name,) = [name async for name in plain.space.names()]
    file = plain.space.root / name
    with file.open("ab") as damaged:
        damaged.write(b"x")
    answer = await plain.get(path)
    assert answer.status == 500
    assert "has 39207 bytes instead of 39206" in answer.detail


async def test_a_retrieve_asks_the_manifest_as_often_for_many_instances_as_for_few(
    site: RetrieveSite, ct: Path
) -> None:
    asked = []
    stored = 0
    for upto in (3, 90):
        await site.store_all(
            with_uids(ct, "1.2", "1.2.1", f"1.2.1.{number}") for number in range(stored, upto)
        )
        stored = upto
        for path in ("/studies/1.2", "/studies/1.2/metadata", "/studies/1.2/instances"):
            with recorded_statements() as statements:
                answer = await site.get(path)
            assert answer.status == 200
            asked.append((path, len(statements)))
    assert asked[:3] == asked[3:]
    assert max(count for _, count in asked) <= 10

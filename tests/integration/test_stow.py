"""STOW-RS over real HTTP with real files: the lines of section 2 of conformance.md, one by one."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pydicom
import pytest
from instances import multipart, with_uids
from pydicom.dataset import Dataset
from stow_site import (
    JSON,
    StowSite,
    chunked,
    connection,
    head,
    store_response_of,
    stow_site,
    value,
)
from yarl import URL

from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.intake import IntakeSettings

XML = "application/dicom+xml"
STUDY, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.1.1"
OTHER_STUDY = "1.2.826.0.1.3680043.8.498.2"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def sop(number: int, series: str = SERIES) -> str:
    return f"{series}.{number}"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[StowSite]:
    async with stow_site(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def ct(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


@pytest.fixture(scope="session")
def instances(ct: Path) -> list[bytes]:
    """Six instances of one series, `sop(0)` and on."""
    return [with_uids(ct, STUDY, SERIES, sop(number)) for number in range(6)]


@pytest.fixture(scope="session")
def of_other_study(ct: Path) -> bytes:
    return with_uids(ct, OTHER_STUDY, f"{OTHER_STUDY}.1", f"{OTHER_STUDY}.1.1")


def changed(data: bytes, change: Callable[[Dataset], object]) -> bytes:
    """The file's bytes after a change to its data set."""
    dataset = pydicom.dcmread(BytesIO(data))
    change(dataset)
    buffer = BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def port_of(site: StowSite) -> int:
    port = URL(site.url).port
    assert port is not None
    return port


@pytest.mark.parametrize("path", ["/studies", f"/studies/{STUDY}"])  # S1 S14 S35
async def test_the_instances_of_a_multipart_body_are_stored_as_they_came(
    site: StowSite, instances: list[bytes], path: str
) -> None:
    response = await site.send(*instances, path=path)
    assert response.status == 200
    assert response.stored_uids == [sop(n) for n in range(6)]
    assert (response.failed, response.others) == ([], [])
    await site.assert_holds(*response.stored_uids)
    # At once: the recording is part of what the answer waited for.
    for number, data in enumerate(instances):
        assert await site.fetch(STUDY, SERIES, sop(number)) == data
    found = await site.search(f"/instances?StudyInstanceUID={STUDY}")
    assert {value(one, "00080018") for one in found} == {sop(n) for n in range(6)}


@pytest.mark.parametrize("kind", ["json", "xml"])  # S2 S3
async def test_metadata_with_bulk_data_is_415_in_this_version(
    site: StowSite, instances: list[bytes], kind: str
) -> None:
    body, content_type = multipart(instances[:1])
    answer = await site.post(
        body, content_type.replace("application/dicom", f"application/dicom+{kind}")
    )
    assert answer.status == 415
    assert "later version" in answer.detail
    assert 'multipart/related; type="application/dicom"; boundary=…' in answer.json["supported"]
    await site.assert_holds()


async def test_a_body_that_is_one_instance_is_stored(  # S11
    site: StowSite, instances: list[bytes]
) -> None:
    answer = await site.post(instances[0], "application/dicom", Accept=JSON)
    response = store_response_of(answer)
    assert (response.status, response.stored_uids) == (200, [sop(0)])
    assert await site.fetch(STUDY, SERIES, sop(0)) == instances[0]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "image/jpeg",
        "text/plain",
        "multipart/form-data; boundary=b",
        "multipart/mixed; boundary=b",
        'multipart/related; type="image/jpeg"; boundary=b',
        "application/dicom-rle",
    ],
)  # S12
async def test_other_media_types_are_415(site: StowSite, content_type: str) -> None:
    answer = await site.post(b"--b\r\n\r\nx\r\n--b--", content_type)
    assert answer.status == 415
    assert "application/dicom" in answer.json["supported"]
    await site.assert_holds()


@pytest.mark.parametrize(
    "content_type", [None, "", "nonsense", "multipart/related", "multipart/related; boundary="]
)  # S12 S13
async def test_a_missing_or_unreadable_content_type_is_400(
    site: StowSite, content_type: str | None
) -> None:
    answer = await site.post(b"--b\r\n\r\nx\r\n--b--", content_type)
    assert answer.status == 400
    assert "Content-Type" in answer.detail
    assert answer.json["supported"]
    await site.assert_holds()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "does not contain the boundary"),
        (b"--b--\r\n", "no part"),
        (b"--b\r\n--b--", "closing delimiter"),
        (b"no boundary at all", "does not contain the boundary"),
        (b"--b\r\nContent-Type: application/dicom\r\n\r\nDICM", "closing delimiter"),
    ],
)  # S13
async def test_a_body_that_is_no_multipart_body_is_400(
    site: StowSite, body: bytes, detail: str
) -> None:
    answer = await site.post(body, "multipart/related; type=application/dicom; boundary=b")
    assert answer.status == 400
    assert detail in answer.detail
    await site.assert_holds()


async def test_of_a_body_that_breaks_off_the_complete_parts_are_stored_and_named(  # S13
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances[:3])
    answer = await site.post(body[:-5000], content_type, Accept=JSON)
    response = store_response_of(answer)
    assert response.status == 202
    assert response.stored_uids == [sop(0), sop(1)]
    assert list(response.failures) == [3]
    reason, message = response.failures[3]
    assert reason == 0xC000
    assert message == (
        "part 3: the body ends before its closing delimiter; 2 parts were complete before"
    )
    await site.assert_holds(sop(0), sop(1))


async def test_the_status_tells_all_some_or_none(  # S14
    site: StowSite, instances: list[bytes]
) -> None:
    assert (await site.send(instances[0], instances[1])).status == 200
    some = await site.send(instances[2], b"no DICOM" * 100)
    assert (some.status, some.stored_uids, list(some.failures)) == (202, [sop(2)], [2])
    none = await site.send(b"no DICOM" * 100, b"neither" * 100)
    assert (none.status, none.stored, list(none.failures)) == (409, [], [1, 2])


@pytest.mark.parametrize("status", [200, 202, 409])  # S15 H15
async def test_the_response_is_one_bare_dicom_json_object(
    site: StowSite, instances: list[bytes], status: int
) -> None:
    parts = {200: [instances[0]], 202: [instances[0], b"x" * 200], 409: [b"x" * 200]}[status]
    body, content_type = multipart(parts)
    answer = await site.post(body, content_type, Accept=JSON)
    assert answer.status == status
    assert answer.headers["Content-Type"] == JSON
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    assert "Transfer-Encoding" not in answer.headers
    dataset = Dataset.from_json(msgspec.json.decode(answer.body))  # pydicom reads it
    assert dataset[0x00081190].VR == "UR"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        (JSON, JSON),
        ("application/json", "application/json"),
        (f"{XML}, {JSON};q=0.5", XML),
        (f"{JSON};q=0.1, {XML};q=0.2", XML),
        ("text/html, application/*;q=0.1", JSON),
    ],
)  # S15 S16 H1 H4 H7
async def test_the_response_has_the_media_type_asked_for(
    site: StowSite, instances: list[bytes], accept: str | None, content_type: str
) -> None:
    body, sent_type = multipart(instances[:1])
    headers = {"Accept": accept} if accept else {}
    answer = await site.post(body, sent_type, **headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)


async def test_the_accept_parameter_comes_before_the_header(  # H2
    site: StowSite, instances: list[bytes]
) -> None:
    body, sent_type = multipart(instances[:1])
    answer = await site.post(
        body, sent_type, "/studies?accept=application/dicom%2Bxml", Accept=JSON
    )
    assert (answer.status, answer.headers["Content-Type"]) == (200, XML)


async def test_the_xml_response_says_the_same_as_the_json_response(  # S16
    site: StowSite, instances: list[bytes]
) -> None:
    parts = (instances[0], b"no DICOM" * 100)
    said = await site.send(*parts)
    body, content_type = multipart(parts)
    answer = await site.post(body, content_type, Accept=XML)
    assert answer.status == 202
    model = ElementTree.fromstring(answer.body)
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    assert model.tag == f"{space}NativeDicomModel"
    values = {
        (e.get("tag"), v.text) for e in model.iter(f"{space}DicomAttribute") for v in e.iter()
    }
    for item, tags in (
        (said.stored[0], ("00081150", "00081155", "00081190")),
        (said.others[0], ("00081197",)),
    ):
        for tag in tags:
            assert (tag, str(value(item, tag))) in values
    assert ("00081190", value(said.dataset, "00081190")) in values


@pytest.mark.parametrize(
    "accept",
    ["image/png", "text/html", "application/dicom", 'multipart/related; type="application/dicom"'],
)  # S16 H6
async def test_if_no_acceptable_response_is_to_be_had_nothing_is_stored(
    site: StowSite, instances: list[bytes], accept: str
) -> None:
    body, content_type = multipart(instances[:1])
    answer = await site.post(body, content_type, Accept=accept)
    assert answer.status == 406
    assert answer.json["available"] == [JSON, "application/json", XML]
    await site.assert_holds()


async def test_dicom_and_rendered_types_at_once_are_400(  # H3
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances[:1])
    answer = await site.post(body, content_type, Accept=f"{JSON}, image/png")
    assert answer.status == 400
    await site.assert_holds()


async def test_the_retrieve_url_is_that_of_the_one_study(  # S17 S36
    site: StowSite, instances: list[bytes]
) -> None:
    response = await site.send(*instances[:2])
    url = f"{site.url}/studies/{STUDY}"
    assert response.dataset["00081190"] == {"vr": "UR", "Value": [url]}
    assert response.headers["Location"] == response.headers["Content-Location"] == url
    assert (await site.get(url)).status == 200


async def test_with_several_studies_all_are_stored_and_the_retrieve_url_is_empty(  # S17 S27
    site: StowSite, instances: list[bytes], of_other_study: bytes
) -> None:
    response = await site.send(instances[0], of_other_study, instances[1])
    assert (response.status, len(response.stored)) == (200, 3)
    assert response.dataset["00081190"] == {"vr": "UR"}
    assert "Location" not in response.headers
    assert await site.counts() == {STUDY: 2, OTHER_STUDY: 1}


async def test_what_was_stored_is_listed_with_urls_that_resolve(  # S18 S35
    site: StowSite, instances: list[bytes], of_other_study: bytes
) -> None:
    sent = [*instances, of_other_study]
    response = await site.send(*sent)
    for number, (item, data) in enumerate(zip(response.stored, sent, strict=True), start=1):
        assert value(item, "00081150") == CT_IMAGE_STORAGE
        assert value(item, "00091003") == number
        assert value(item, "00091001") == "CREATED"
        answer = await site.get(value(item, "00081190"), "application/dicom; transfer-syntax=*")
        assert (answer.status, answer.body) == (200, data)
    assert "00081198" not in response.dataset
    assert "0008119A" not in response.dataset


async def test_what_was_not_stored_is_listed_with_its_uids_and_a_reason(  # S19
    site: StowSite, instances: list[bytes], of_other_study: bytes
) -> None:
    response = await site.send(of_other_study, path=f"/studies/{STUDY}")
    assert response.status == 409
    assert "00081199" not in response.dataset
    assert "0008119A" not in response.dataset
    (item,) = response.failed
    assert value(item, "00081150") == CT_IMAGE_STORAGE
    assert value(item, "00081155") == f"{OTHER_STUDY}.1.1"
    assert item["00081197"] == {"vr": "US", "Value": [0xA901]}


async def test_a_part_without_readable_uids_is_another_failure(  # S20 S23
    site: StowSite, instances: list[bytes]
) -> None:
    response = await site.send(instances[0], b"no DICOM at all" * 100)
    assert "00081198" not in response.dataset
    (item,) = response.others
    assert "00081150" not in item
    assert "00081155" not in item
    assert value(item, "00081197") == 0xC000
    assert value(item, "00091002") == (
        "part 2: the bytes are not DICOM: neither DICM nor a data set begins there"
    )


def without(keyword: str) -> Callable[[Dataset], object]:
    return lambda dataset: delattr(dataset, keyword)


def having(keyword: str, text: str) -> Callable[[Dataset], object]:
    def change(dataset: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            setattr(dataset, keyword, text)

    return change


def as_dicomdir(dataset: Dataset) -> None:
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    del dataset.SOPClassUID


def of_private_syntax(dataset: Dataset) -> None:
    dataset.file_meta[0x00020010].value = "1.2.3.4.5.6"


UNUSABLE = [
    (without("SOPClassUID"), 0xC000, "SOP Class UID (0008,0016) is missing"),  # S23 S37
    (without("SOPInstanceUID"), 0xC000, "SOP Instance UID (0008,0018) is missing"),  # S23
    (without("StudyInstanceUID"), 0xC000, "Study Instance UID (0020,000D) is missing"),  # S23
    (without("SeriesInstanceUID"), 0xC000, "Series Instance UID (0020,000E) is missing"),  # S23
    (having("StudyInstanceUID", ""), 0xC000, "Study Instance UID (0020,000D) is missing"),
    (having("StudyInstanceUID", "1.2.x"), 0xC000, "is not made of numbers"),
    (having("StudyInstanceUID", "1..2"), 0xC000, "is not made of numbers"),
    (having("SeriesInstanceUID", "../../etc/passwd"), 0xC000, "is not made of numbers"),
    (having("SOPInstanceUID", "1.2/../../x"), 0xC000, "is not made of numbers"),
    (having("SOPInstanceUID", ".."), 0xC000, "is not made of numbers"),
    (having("SOPInstanceUID", "1.2\n3"), 0xC000, "is not made of numbers"),
    (having("SOPInstanceUID", "1." * 40 + "1"), 0xC000, "is 81 characters long"),
    (having("SOPClassUID", "1" * 65), 0xC000, "SOP Class UID (0008,0016) is 65 characters long"),
    (as_dicomdir, 0x0122, "DICOMDIR"),  # S24 S37
    (of_private_syntax, 0xC122, "its transfer syntax is none of the standard's"),  # S24
]


@pytest.mark.parametrize(("change", "reason", "message"), UNUSABLE)
async def test_an_unusable_instance_fails_alone_and_is_told_why(
    site: StowSite,
    instances: list[bytes],
    change: Callable[[Dataset], object],
    reason: int,
    message: str,
) -> None:
    response = await site.send(instances[0], changed(instances[1], change), instances[2])
    assert response.status == 202
    assert response.stored_uids == [sop(0), sop(2)]
    assert list(response.failures) == [2]
    assert response.failures[2][0] == reason
    assert response.failures[2][1].startswith("part 2: ")
    assert message in response.failures[2][1]
    await site.assert_holds(sop(0), sop(2))
    await site.assert_serves(instances[1])


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-empty.dcm"])  # S37
async def test_a_real_dicomdir_is_refused(
    site: StowSite, dicom_files: list[Path], name: str
) -> None:
    for path in (path for path in dicom_files if path.name == name):
        response = await site.send(path.read_bytes())
        assert (response.status, response.failures[1][0]) == (409, 0x0122)
    await site.assert_holds()


async def test_instances_of_another_study_fail_and_those_of_the_study_are_stored(  # S22 S26
    site: StowSite, instances: list[bytes], of_other_study: bytes
) -> None:
    path = f"/studies/{STUDY}"
    some = await site.send(instances[0], of_other_study, instances[1], path=path)
    assert (some.status, some.stored_uids) == (202, [sop(0), sop(1)])
    assert some.failures[2][0] == 43265
    assert "not that of the study it was sent to" in some.failures[2][1]
    none = await site.send(of_other_study, path=path)
    assert (none.status, none.failures[1][0]) == (409, 43265)
    await site.assert_holds(sop(0), sop(1))


async def test_common_offences_are_remarks_and_no_warnings_of_the_standard(  # S25
    site: StowSite, instances: list[bytes]
) -> None:
    # Nothing is coerced or discarded, so none of B000, B006 and B007 is ever true.
    response = await site.send(changed(instances[0], having("StudyInstanceUID", "1.02.3")))
    assert response.status == 200
    (item,) = response.stored
    assert "00081196" not in item
    assert item["00091004"]["Value"] == [
        "Study Instance UID (0020,000D): a component has a leading zero"
    ]
    assert value(item, "00081190").endswith(f"/studies/1.02.3/series/{SERIES}/instances/{sop(0)}")
    assert (await site.get(value(item, "00081190"))).status == 200


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0\0\0", b" \0"])
async def test_uids_padded_at_the_end_are_the_uids(
    site: StowSite, instances: list[bytes], padding: bytes
) -> None:
    uid = b"1.2.826.0.1.3680043.8.498.1.1."
    data = instances[0]
    at = data.rindex(sop(0).encode())  # of the data set, not of the file meta
    assert data[at - 4 : at - 2] == b"UI"
    length = int.from_bytes(data[at - 2 : at], "little")
    raw = uid + b"77" + padding
    padded = data[: at - 2] + len(raw).to_bytes(2, "little") + raw + data[at + length :]
    response = await site.send(padded)
    assert response.stored_uids == [(uid + b"77").decode()]
    assert await site.fetch(STUDY, SERIES, (uid + b"77").decode()) == padded


async def test_the_same_again_changes_nothing(
    site: StowSite, instances: list[bytes]
) -> None:  # S28
    await site.send(*instances)
    objects = await site.objects()
    again = await site.send(*instances)
    assert (again.status, len(again.stored)) == (200, 6)
    assert {value(item, "00091001") for item in again.stored} == {"UNCHANGED"}
    assert await site.objects() == objects
    assert await site.counts() == {STUDY: 6}


async def test_other_content_under_the_same_uid_replaces(  # S29
    site: StowSite, instances: list[bytes]
) -> None:
    await site.send(*instances)
    other = changed(instances[0], having("PatientID", "changed"))
    response = await site.send(other)
    assert response.status == 200
    assert value(response.stored[0], "00091001") == "REPLACED"
    await site.assert_holds(*[sop(n) for n in range(6)])
    assert await site.fetch(STUDY, SERIES, sop(0)) == other
    assert await site.counts() == {STUDY: 6}


async def test_a_space_that_keeps_refuses_other_content(  # S29
    tmp_path: Path, instances: list[bytes]
) -> None:
    settings = IntakeSettings(conflict_policy=ConflictPolicy.KEEP)
    async with stow_site(tmp_path, intake=settings) as site:
        await site.send(instances[0])
        other = changed(instances[0], having("PatientID", "changed"))
        response = await site.send(other, instances[1])
        assert response.status == 202
        assert value(response.failed[0], "00081155") == sop(0)
        assert response.failures[1][0] == 0x0111
        assert value(response.failed[0], "00091001") == "KEPT"
        same = await site.send(instances[0])
        assert (same.status, value(same.stored[0], "00091001")) == (200, "UNCHANGED")
        assert await site.fetch(STUDY, SERIES, sop(0)) == instances[0]
        await site.assert_holds(sop(0), sop(1))


async def test_of_parts_with_one_uid_the_last_is_the_one_that_stays(  # S28 S29
    site: StowSite, instances: list[bytes]
) -> None:
    versions = [changed(instances[0], having("PatientID", f"V{n}")) for n in range(8)]
    response = await site.send(*versions, versions[-1])
    assert response.status == 200
    assert [value(item, "00091001") for item in response.stored] == [
        "CREATED",
        *["REPLACED"] * 7,
        "UNCHANGED",
    ]
    await site.assert_holds(sop(0))
    assert await site.fetch(STUDY, SERIES, sop(0)) == versions[-1]


async def test_nothing_is_coerced(site: StowSite, instances: list[bytes]) -> None:  # S30
    await site.send(*instances[:1])
    answer = await site.get(f"/studies/{STUDY}/series/{SERIES}/instances/{sop(0)}/metadata", JSON)
    assert "04000561" not in answer.json[0]


@pytest.mark.parametrize(
    "name", ["MR_small_implicit.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "MR_small_RLE.dcm"]
)  # S31
async def test_every_transfer_syntax_is_stored_as_it_came(
    site: StowSite, dicom_file: Callable[[str], Path], name: str
) -> None:
    await site.assert_serves(dicom_file(name).read_bytes())


async def test_a_preamble_that_means_something_is_kept(  # S38
    site: StowSite, instances: list[bytes]
) -> None:
    await site.assert_serves(b"II*\0" + bytes(range(124)) + instances[0][128:])


async def test_a_body_may_come_in_chunks(site: StowSite, instances: list[bytes]) -> None:  # S32
    body, content_type = multipart(instances)
    pieces = [body[at : at + 999] for at in range(0, len(body), 999)]
    async with connection(port_of(site)) as raw:
        await raw.send(
            head(Content_Type=content_type, Transfer_Encoding="chunked", Accept=JSON),
            chunked(*pieces),
        )
        response = store_response_of(await raw.answer())
    assert response.stored_uids == [sop(n) for n in range(6)]


async def test_a_client_that_expects_100_continue_is_told_to_go_on(  # S32
    site: StowSite, instances: list[bytes]
) -> None:
    body, content_type = multipart(instances[:1])
    length = str(len(body))
    async with connection(port_of(site)) as raw:
        for _ in range(2):  # the connection stays usable
            await raw.send(
                head(Content_Type=content_type, Content_Length=length, Expect="100-continue")
            )
            assert (await raw.answer()).status == 100
            await raw.send(body)
            assert (await raw.answer()).status == 200


async def test_a_client_that_expects_100_continue_is_refused_before_it_sends(  # S32
    site: StowSite,
) -> None:
    async with connection(port_of(site)) as raw:
        await raw.send(head(Content_Type="image/png", Content_Length="1000", Expect="100-continue"))
        answer = await raw.answer()
        assert answer.status == 415
        # Whether the body will follow nobody can tell, so nothing else can on this connection.
        assert answer.headers["Connection"] == "close"
        assert await raw.rest() == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])  # S32
async def test_a_content_encoding_is_415(
    site: StowSite, instances: list[bytes], encoding: str
) -> None:
    body, content_type = multipart(instances[:1])
    answer = await site.post(gzip.compress(body), content_type, Content_Encoding=encoding)
    assert answer.status == 415
    assert "Content-Encoding" in answer.detail
    assert answer.headers["Accept-Encoding"] == "identity"
    await site.assert_holds()


async def test_the_identity_encoding_is_none(site: StowSite, instances: list[bytes]) -> None:
    body, content_type = multipart(instances[:1])
    answer = await site.post(body, content_type, Content_Encoding="identity")
    assert answer.status == 200

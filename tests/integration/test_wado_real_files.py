"""WADO-RS over every real file: metadata, frames and bulk values, judged by pydicom."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import pytest_asyncio
from native_model import json_of
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import get_expected_length
from pydicom_judge import (
    assert_same_json,
    assert_same_values,
    bulk_references,
    element_at,
    expected_frames,
    expected_json,
    is_encapsulated,
    literal_pydicom,
    raw_value,
    read,
    without_padding,
)
from retrieve_site import AS_STORED, Answer, RetrieveSite, resource_of, retrieve_site

from imaging_ingestion.intake import IntakeRefused

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = "application/dicom+json"
XML = 'multipart/related; type="application/dicom+xml"'
ANY_PARTS = 'multipart/related; type="*/*"; transfer-syntax=*'
PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: VRs whose values may be bulk data (PS3.18 10.4.3.3.2).
BULK_VRS = frozenset(
    "DS FL FD IS LT OB OD OF OL OV OW SL SS ST SV UC UL UN US UT UV".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class StoredFile:
    """A real file that has been taken in."""

    path: Path
    site: RetrieveSite
    resource: str  # below the DICOMweb root

    async def get(self, below: str = "", accept: str | None = None) -> Answer:
        return await self.site.get(self.resource + below, accept)

    @property
    def url(self) -> str:
        return self.site.url + self.resource

    async def metadata(self) -> dict[str, Any]:
        """Its data set as we say it."""
        answer = await self.get("/metadata", JSON)
        assert answer.status == 200, self.path
        (data_set,) = json.loads(answer.body)
        return dict(data_set)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored_files(
    tmp_path_factory: pytest.TempPathFactory, dicom_files: list[Path]
) -> AsyncIterator[list[StoredFile]]:
    """Every file that is not refused. Files that share a UID are each in a site of their own."""
    rounds: list[list[Path]] = []
    seen: Counter[str] = Counter()
    for path in dicom_files:
        uid = pydicom.dcmread(path, force=True, specific_tags=["SOPInstanceUID"]).get(
            "SOPInstanceUID", ""
        )
        if seen[uid] == len(rounds):
            rounds.append([])
        rounds[seen[uid]].append(path)
        seen[uid] += 1
    found = []
    async with AsyncExitStack() as stack:
        for paths in rounds:
            site = await stack.enter_async_context(retrieve_site(tmp_path_factory.mktemp("real")))
            stored = await asyncio.gather(*(_store(site, path) for path in paths))
            found += [one for one in stored if one is not None]
        assert len(found) >= 0.6 * len(dicom_files)  # some are no DICOM, or have no UIDs
        yield sorted(found, key=lambda one: one.path)


async def _store(site: RetrieveSite, path: Path) -> StoredFile | None:
    try:
        received = await site.store_file(path)
    except IntakeRefused:
        return None
    return StoredFile(path, site, resource_of(received))


@pytest.fixture(autouse=True)
def _literal() -> Iterator[None]:
    with literal_pydicom():
        yield


async def test_an_instance_leaves_byte_for_byte_or_with_the_file_meta_it_lacked(
    stored_files: list[StoredFile],
) -> None:
    # W1, W3
    for stored in stored_files:
        path = stored.path
        answer = await stored.get("", AS_STORED)
        assert answer.status == 200, path
        (part,) = answer.parts
        data = await asyncio.to_thread(path.read_bytes)
        assert part.body[128:132] == b"DICM", path
        assert part.body == data or part.body.endswith(data.removeprefix(b"DICM")), path
        syntax = pydicom.dcmread(path, force=True).file_meta.get("TransferSyntaxUID")
        if syntax is not None and part.body == data:
            assert part.headers["Content-Type"] == f"application/dicom; transfer-syntax={syntax}"


async def test_the_metadata_of_every_file_says_what_pydicom_says(
    stored_files: list[StoredFile],
) -> None:
    # W9, W10, J1 to J9
    compared = 0
    for stored in stored_files:
        path = stored.path
        answer = await stored.get("/metadata", JSON)
        assert answer.status == 200, path
        assert answer.headers["Content-Type"] == JSON
        (ours,) = json.loads(answer.body)
        assert not [tag for tag in ours if tag.startswith("0002") or tag.endswith("0000")]
        try:
            theirs = expected_json(path)
        except (ValueError, TypeError):
            continue  # an IS of "1A"
        try:
            assert_same_json(ours, theirs)
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error
        compared += 1
    assert compared >= 0.9 * len(stored_files)


async def test_pydicom_makes_the_same_data_set_of_our_metadata(
    stored_files: list[StoredFile],
) -> None:
    # J4, J12 the other way round: what a client with pydicom works with
    compared = 0
    for stored in stored_files:
        path = stored.path
        ours = await stored.metadata()
        original = read(path)

        try:
            for element in original.iterall():
                _ = element.value
        except (ValueError, TypeError):
            continue  # an IS of "1A": pydicom cannot say it
        values = {uri: element_at(original, place).value for place, _, uri in bulk_references(ours)}
        try:
            back = Dataset.from_json(ours, bulk_data_uri_handler=_lookup(values))
        except ValueError:
            continue  # again
        try:
            assert_same_values(back, original)
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error
        compared += 1
    assert compared >= 0.9 * len(stored_files)


def _lookup(values: dict[str, Any]) -> Callable[[str], Any]:
    """What pydicom asks for bulk values: a function with one parameter."""
    return lambda uri: values[uri]


async def test_xml_and_json_metadata_hold_the_same_values(
    stored_files: list[StoredFile],
) -> None:
    # J13, W9
    for stored in stored_files:
        path = stored.path
        answer = await stored.get("/metadata", XML)
        assert answer.status == 200, path
        (part,) = answer.parts
        assert part.headers["Content-Type"] == "application/dicom+xml"
        assert part.headers["Content-Location"] == f"{stored.url}/metadata"
        (document,) = answer.documents
        as_json = await stored.get("/metadata", JSON)
        (expected,) = json.loads(as_json.body, parse_float=str, parse_int=str)
        assert json_of(document) == _as_xml_can_say(expected), path.name


_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _as_xml_can_say(value: Any) -> Any:
    """XML 1.0 has no control characters; a Native Model name has no empty parts at its end."""
    if isinstance(value, str):
        return _NOT_XML.sub("\ufffd", value)
    if isinstance(value, list):
        return [_as_xml_can_say(one) for one in value]
    if isinstance(value, dict):
        if "vr" in value or not value.keys() & {"Alphabetic", "Ideographic", "Phonetic"}:
            return {key: _as_xml_can_say(one) for key, one in value.items()}
        return {group: _as_xml_can_say(name).rstrip("^") for group, name in value.items()}
    return value


async def test_every_frame_of_every_image_is_what_pydicom_cuts(
    stored_files: list[StoredFile],
) -> None:
    # W14, W16, W17, W18
    images = described = 0
    for stored in stored_files:
        path = stored.path
        data_set = read(path)
        try:
            count = int(data_set.get("NumberOfFrames") or 1)
        except ValueError:
            assert (await stored.get("/frames/1", ANY_PARTS)).status == 404  # "1A" frames
            continue
        numbers = ",".join(map(str, range(1, count + 1)))
        answer = await stored.get(f"/frames/{numbers}", ANY_PARTS)
        if not any(data_set.get(keyword) for keyword in PIXEL_KEYWORDS):
            assert answer.status == 404, path
            continue
        if "TransferSyntaxUID" not in data_set.file_meta or "Rows" not in data_set:
            continue
        described += 1
        expected = expected_frames(data_set)
        if answer.status == 406:
            # Fewer bytes than the image is said to have: nothing is invented, and we say so.
            assert len(expected[-1]) < get_expected_length(data_set) / count, path
            assert "Pixel Data" in answer.detail
            continue
        assert answer.status == 200, (path, answer.body[:300])
        parts = answer.parts
        assert [part.body for part in parts] == [without_padding(f) for f in expected], path
        assert [part.headers["Content-Location"] for part in parts] == [
            f"{stored.url}/frames/{number}" for number in range(1, count + 1)
        ]
        images += 1
    assert images >= 0.9 * described > 0


async def test_every_bulk_value_that_metadata_refers_to_is_there_byte_for_byte(
    stored_files: list[StoredFile],
) -> None:
    # W10, W11, W12
    values = nested = 0
    for stored in stored_files:
        path = stored.path
        ours = await stored.metadata()
        data_set = read(path)
        for place, vr, uri in bulk_references(ours):
            assert vr in BULK_VRS, (path, place)
            assert uri == f"{stored.url}/bulkdata/{place}"
            answer = await stored.site.get(uri)
            assert answer.status == 200, (path, place, answer.body[:300])
            bodies = [part.body for part in answer.parts]
            if is_encapsulated(data_set, place):
                fresh = read(path)
                frames = (
                    generate_frames(element_at(fresh, place).value, number_of_frames=1)
                    if "/" in place  # an icon
                    else expected_frames(fresh)
                )
                assert bodies == [without_padding(frame) for frame in frames], (path, place)
            else:
                (part,) = answer.parts
                assert part.headers["Content-Location"] == uri
                assert part.headers["Content-Type"] == "application/octet-stream"
                assert bodies == [raw_value(data_set, place, vr)], (path, place)
            values += 1
            nested += "/" in place
    assert values > 0.5 * len(stored_files)
    assert nested

"""What a C-STORE records, and what it is answered when it is not quite what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from dimse_site import CT, CT_IMAGE_STORAGE, EXPLICIT, DimseSite, ct, dimse_site, store

from imaging_ingestion.dicom.part10 import IMPLEMENTATION_CLASS_UID
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dimse.requestor import Proposal

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[DimseSite]:
    async with dimse_site(tmp_path / "site") as running:
        yield running


async def test_the_object_is_a_file_with_the_data_set_as_it_was(site: DimseSite) -> None:
    sent = ct()
    association = await site.call(CT)
    response = await store(association, sent)
    await association.release()
    assert response.status == 0
    assert response.affected_sop_class_uid == CT_IMAGE_STORAGE  # C2
    assert response.affected_sop_instance_uid == sent.sop_instance
    row = (await site.site.recorded())[sent.sop_instance]
    whole = (site.site.root / row.object_name).read_bytes()
    header = scan_bytes(whole)
    assert whole[: header.dataset_offset].count(IMPLEMENTATION_CLASS_UID.encode()) == 1
    assert header.transfer_syntax_uid == EXPLICIT
    assert header.media_storage_sop_instance_uid == sent.sop_instance
    assert whole[header.dataset_offset :] == sent.data_set
    assert row.provider == "test"


async def test_an_instance_of_another_class_than_announced_is_stored_with_a_warning(
    site: DimseSite,
) -> None:  # C4
    sent = ct()
    association = await site.call(Proposal(MR_IMAGE_STORAGE, (EXPLICIT,)))
    response = await store(association, replace(sent, sop_class=MR_IMAGE_STORAGE))
    assert response.status == 0xB007
    await association.release()
    assert await site.data_set_of(sent.sop_instance) == sent.data_set
    assert (await site.site.recorded())[sent.sop_instance].sop_class_uid == CT_IMAGE_STORAGE


async def test_the_same_instance_again_is_stored_once(site: DimseSite) -> None:  # S28
    sent = ct()
    association = await site.call(CT)
    assert [(await store(association, sent)).status for _ in range(3)] == [0, 0, 0]
    await association.release()
    await site.site.assert_holds(sent.sop_instance)

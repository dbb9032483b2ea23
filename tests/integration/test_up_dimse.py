"""`up` answers DICOM on TCP: dcmtk, pynetdicom and our own commands against the real process."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from command import command
from commitment_peers import (
    Requester,
    action,
    ask,
    ask_and_leave,
    associated,
    committed,
    failed,
    requester_listens,
)
from dcmtk_peers import data_sets_in
from dimse_site import CT, ECHO, Sent, store, tool
from instances import multipart
from platform_process import Platform, free_port
from raw_peer import store_request
from site_documents import binding, config_map, core, dimse, service
from storage_peers import Collector, destination
from up_dimse import (
    AE_TITLE,
    CT_IMAGE_STORAGE,
    call,
    get,
    instance,
    instances_in,
    running,
    site,
    stored,
    text_of,
    until,
)

from imaging_ingestion.association.error import AssociationRejectedError

ROOT = "1.2.826.0.1.3680043.8.498.21"
QUERY = ("-S", "-aec", AE_TITLE)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The built-in site, which the tests of this module share; each has a study of its own."""
    shared = Platform(tmp_path_factory.mktemp("up")).start()
    yield shared
    assert shared.stop() == 0
    assert "Traceback" not in shared.log.read_text()


@pytest.fixture
def source(dicom_file: Callable[[str], Path]) -> Path:
    return dicom_file("CT_small.dcm")


def files(source: Path, folder: Path, study: str, count: int = 3) -> dict[str, bytes]:
    """Files of a study in a folder; their data sets by SOP Instance UID."""
    folder.mkdir()
    made = {}
    for number in range(count):
        whole, sent = instance(source, study, number)
        (folder / f"{number}.dcm").write_bytes(whole)
        made[sent.sop_instance] = sent.data_set
    return made


def stow(platform: Platform, folder: Path) -> None:
    """Store the files of a folder over DICOMweb."""
    body, content_type = multipart([path.read_bytes() for path in folder.iterdir()])
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(f"{platform.dicomweb}/studies", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def study_keys(study: str, level: str = "STUDY") -> list[str]:
    return ["-k", f"QueryRetrieveLevel={level}", "-k", f"StudyInstanceUID={study}"]


# ---- the built-in site


async def test_dcmtk_echoes(platform: Platform) -> None:
    code, said = await tool("echoscu", "-aec", AE_TITLE, "127.0.0.1", platform.dimse_port)
    assert code == 0, said
    code, said = await tool("echoscu", "-aec", "OTHER", "127.0.0.1", platform.dimse_port)
    assert code != 0
    assert "Called AE Title Not Recognized" in said


async def test_what_dcmtk_stores_is_found_by_qido_at_once_and_comes_back_as_it_was(
    platform: Platform, source: Path, tmp_path: Path
) -> None:
    study = f"{ROOT}.1"
    sent = files(source, tmp_path / "in", study)
    where = ("-aec", AE_TITLE, "127.0.0.1", platform.dimse_port, tmp_path / "in")
    code, said = await tool("storescu", "+sd", *where)
    assert code == 0, said
    assert instances_in(platform.dicomweb, study) == set(sent)
    # dcmtk leaves out the trailing padding of what it sends.
    assert len(stored(platform.dicomweb, study, f"{study}.1.0")) > 30_000


async def test_what_we_store_is_there_byte_for_byte(platform: Platform, source: Path) -> None:
    study = f"{ROOT}.2"
    _, sent = instance(source, study, 1)
    association = await call(platform.dimse_port, CT)
    assert (await store(association, sent)).status == 0
    assert stored(platform.dicomweb, study, sent.sop_instance) == sent.data_set
    await association.release()


async def test_what_comes_over_dicomweb_is_found_and_fetched_by_dcmtk(
    platform: Platform, source: Path, tmp_path: Path
) -> None:
    study = f"{ROOT}.3"
    sent = files(source, tmp_path / "in", study)
    stow(platform, tmp_path / "in")
    where = ("127.0.0.1", platform.dimse_port)
    code, said = await tool(
        "findscu", *QUERY, *study_keys(study), "-k", "NumberOfStudyRelatedInstances", *where
    )
    assert code == 0, said
    assert f"[{study}]" in said
    assert "RetrieveAETitle" in said
    assert "[INGESTION" in said
    assert "IS [3" in said
    (tmp_path / "out").mkdir()
    code, said = await tool(
        "getscu", *QUERY, "+B", *study_keys(study), "-od", tmp_path / "out", *where
    )
    assert code == 0, said
    assert data_sets_in(tmp_path / "out") == sent


async def test_our_own_commands_go_there_and_back(
    platform: Platform, source: Path, tmp_path: Path
) -> None:
    study = f"{ROOT}.4"
    sent = files(source, tmp_path / "in", study)
    to = f"{AE_TITLE}@127.0.0.1:{platform.dimse_port}"

    async def run(*arguments: str | Path) -> str:
        return (await asyncio.to_thread(command, *arguments)).stdout

    assert "answers in" in await run("echo", to)
    assert "3 stored, 0 already there, 0 failed" in await run("send", tmp_path / "in", "--to", to)
    keys = ("-k", f"StudyInstanceUID={study}", "-k", f"SeriesInstanceUID={study}.1")
    found = json.loads(await run("find", to, "--level", "image", *keys, "--json"))
    assert {one["00080018"]["Value"][0] for one in found} == set(sent)
    await run("get", to, "-k", f"StudyInstanceUID={study}", "--out", tmp_path / "out")
    assert data_sets_in(tmp_path / "out") == sent
    assert instances_in(platform.dicomweb, study) == set(sent)


async def test_what_is_there_is_shown_at_the_root_and_in_the_metrics(platform: Platform) -> None:
    assert f"<code>{AE_TITLE}@127.0.0.1:{platform.dimse_port}</code>" in text_of(platform.url)
    association = await call(platform.dimse_port, CT, ECHO)
    metrics = text_of(f"{platform.url}/metrics")
    assert 'imaging_ingestion_dimse_associations{service="dimse"} 1.0' in metrics
    refused = Sent(CT_IMAGE_STORAGE, "1.2.3", "1.2.840.10008.1.2.1", b"no data set")
    assert (await store(association, refused)).status == 0xC000
    await association.release()
    metrics = text_of(f"{platform.url}/metrics")
    assert 'imaging_ingestion_dimse_stores_total{service="dimse",status="C000"} 1.0' in metrics


async def test_associations_are_logged_and_patients_are_not(
    platform: Platform, source: Path
) -> None:
    _, sent = instance(source, f"{ROOT}.5", 1)
    association = await call(platform.dimse_port, CT, calling="SCANNER-5")
    assert (await store(association, sent)).status == 0
    await association.release()
    log = platform.log
    await until(lambda: log.read_text().count("SCANNER-5") == 2, "both lines are written")
    accepted, ended = [line for line in log.read_text().splitlines() if "SCANNER-5" in line]
    assert "dimse.accepted" in accepted
    assert "called=INGESTION" in accepted
    assert "dimse.ended" in ended
    assert "CompressedSamples" not in log.read_text()  # the patient of the source


# ---- sites of their own


async def test_dcmtk_has_instances_moved_to_itself(tmp_path: Path, source: Path) -> None:
    study, own = f"{ROOT}.6", free_port()
    peers = f"[{{applicationEntityTitle: MOVESCU, host: 127.0.0.1, port: {own}}}]"
    platform = Platform(tmp_path / "up")
    platform.site = site(platform.dimse_port, destinations=peers)
    sent = files(source, tmp_path / "in", study)
    (tmp_path / "out").mkdir()
    async with running(platform):
        await asyncio.to_thread(stow, platform, tmp_path / "in")
        where = ("127.0.0.1", platform.dimse_port)
        move = ("movescu", "-d", *QUERY, *study_keys(study))
        code, said = await tool(
            *move, "-aem", "MOVESCU", "+P", own, "-od", tmp_path / "out", *where
        )
        assert code == 0, said
        assert set(data_sets_in(tmp_path / "out")) == set(sent)
        _, said = await tool(*move, "-aem", "NOWHERE", *where)
        assert "0xa801" in said


async def test_what_comes_by_c_store_leaves_by_both_bindings_and_is_settled(
    tmp_path: Path, source: Path
) -> None:
    study, count = f"{ROOT}.7", 12
    archive = Platform(tmp_path / "archive")
    archive.site = "---\n".join(
        [
            core(),
            service("web", providerName="by-stow"),
            dimse(
                "pacs",
                bucketConfigName="pacs",
                providerName="by-c-store",
                applicationEntityTitle="PACS",
                port=archive.dimse_port,
            ),
            config_map("pacs"),
        ]
    )
    platform = Platform(tmp_path / "up")
    platform.site = site(
        platform.dimse_port,
        binding("DicomInstanceBinding", "stow", bindingConfigName="stow"),
        config_map("stow", STOW_ENDPOINT=f"{archive.dicomweb}/studies", SELECTOR="scanners"),
        binding("DicomInstanceBinding", "c-store", bindingConfigName="c-store"),
        config_map(
            "c-store",
            DIMSE_TARGET_HOST="127.0.0.1",
            DIMSE_TARGET_PORT=str(archive.dimse_port),
            DIMSE_TARGET_AE="PACS",
            SELECTOR="scanners",
        ),
        providerName="scanners",
    )
    sent = files(source, tmp_path / "in", study, count)
    async with running(archive), running(platform):
        to = f"{AE_TITLE}@127.0.0.1:{platform.dimse_port}"
        await asyncio.to_thread(command, "send", tmp_path / "in", "--to", to)
        copies = [archive.dicomweb, f"{archive.url}/spaces/pacs/dicom-web"]
        for copy in copies:
            await until(lambda copy=copy: instances_in(copy, study) == set(sent), copy)
            for sop, content in sent.items():
                assert stored(copy, study, sop) == content
        revisions = f"{platform.url}/api/revisions/default/{study}"
        await until(lambda: get(revisions)["revisions"], "the study is settled")
        last = get(revisions)["revisions"][-1]["number"]
        deliveries = f"{platform.url}/api/deliveries?limit=1000"
        await until(
            lambda: {one["state"] for one in get(deliveries)["deliveries"]} == {"delivered"},
            "all is delivered",
        )
        assert len(get(deliveries)["deliveries"]) == 2 * count
        event = get(f"{revisions}/{last}")
        (series,) = event["study"]["series"]
        assert {one["sopInstanceUID"] for one in series["instances"]} == set(sent)
        assert series["providerName"] == "scanners"


async def test_storage_commitment_is_reported_on_the_same_and_on_a_new_association(
    tmp_path: Path, source: Path
) -> None:
    study = f"{ROOT}.8"
    requester = Requester()
    async with requester_listens(requester) as scanner:
        peers = f"[{{applicationEntityTitle: SCANNER, host: 127.0.0.1, port: {scanner.port}}}]"
        platform = Platform(tmp_path / "up")
        platform.site = site(platform.dimse_port, destinations=peers)
        async with running(platform):
            association = await call(platform.dimse_port, CT)
            references = []
            for number in range(2):
                _, sent = instance(source, study, number)
                assert (await store(association, sent)).status == 0
                references.append((sent.sop_class, sent.sop_instance))
            await association.release()
            async with associated(platform.dimse_port, requester) as asking:
                status = await asyncio.to_thread(ask, asking, action(references, "1.2.1"))
                assert status.Status == 0
                event_type, information, side = await requester.report()
                # Who leaves before that is reported to once more.
                log = platform.log
                await until(lambda: "commitment.reported" in log.read_text(), "it is answered")
            assert (event_type, side) == (1, "same")
            assert sorted(committed(information)) == sorted(references)
            wanted = [*references, (CT_IMAGE_STORAGE, f"{study}.404")]
            asked = action(wanted, "1.2.2")
            port = platform.dimse_port
            assert await asyncio.to_thread(ask_and_leave, port, requester, asked) == 0
            event_type, information, side = await requester.report(2)
            assert (event_type, side) == (2, "new")
            assert failed(information) == {f"{study}.404": 0x0112}
            assert sorted(committed(information)) == sorted(references)


async def test_services_of_one_site_have_titles_ports_and_providers_of_their_own(
    tmp_path: Path, source: Path
) -> None:
    platform = Platform(tmp_path / "up")
    ports = {"CT": free_port(), "MR": free_port(), "LAB": free_port()}
    platform.site = "---\n".join(
        [
            core(),
            service("web", providerName="web"),
            dimse("ct", applicationEntityTitle="CT", port=ports["CT"], providerName="ct"),
            dimse(
                "mr",
                applicationEntityTitle="MR",
                port=ports["MR"],
                providerName="mr",
            ),
            dimse(
                "lab", applicationEntityTitle="LAB", port=ports["LAB"], bucketConfigName="research"
            ),
            config_map("research"),
        ]
    )
    async with running(platform):
        studies = {}
        for number, (title, port) in enumerate(ports.items()):
            studies[title] = f"{ROOT}.9.{number}"
            whole, _ = instance(source, studies[title], 1)
            path = tmp_path / f"{title}.dcm"
            path.write_bytes(whole)
            await asyncio.to_thread(command, "send", path, "--to", f"{title}@127.0.0.1:{port}")
        entries = get(f"{platform.url}/api/changes?kind=stored")["changes"]
        assert {one["study_instance_uid"]: one["provider"] for one in entries} == {
            studies["CT"]: "ct",
            studies["MR"]: "mr",
            studies["LAB"]: "default",
        }
        assert instances_in(platform.dicomweb, studies["MR"])
        assert not instances_in(platform.dicomweb, studies["LAB"])
        assert instances_in(f"{platform.url}/spaces/research/dicom-web", studies["LAB"])
    said = platform.log.read_text()
    for title, port in ports.items():
        assert f" {title}@127.0.0.1:{port}\n" in said


async def test_a_space_of_a_dimse_service_alone_has_dicomweb_too(
    tmp_path: Path, source: Path
) -> None:
    platform = Platform(tmp_path / "up")
    platform.site = site(platform.dimse_port)
    async with running(platform):
        _, sent = instance(source, f"{ROOT}.10", 1)
        association = await call(platform.dimse_port, CT)
        assert (await store(association, sent)).status == 0
        await association.release()
        assert instances_in(platform.dicomweb, f"{ROOT}.10") == {sent.sop_instance}


async def test_a_destination_that_has_failed_is_only_that(tmp_path: Path, source: Path) -> None:
    """The platform calls, and goes on when the other one does not answer."""
    async with destination(Collector(statuses=lambda *_: 0xA700), "VIEWER") as (peer, _):
        peers = f"[{{applicationEntityTitle: VIEWER, host: 127.0.0.1, port: {peer.port}}}]"
        platform = Platform(tmp_path / "up")
        platform.site = site(platform.dimse_port, destinations=peers)
        async with running(platform):
            study = f"{ROOT}.11"
            _, sent = instance(source, study, 1)
            association = await call(platform.dimse_port, CT)
            assert (await store(association, sent)).status == 0
            await association.release()
            to = f"{AE_TITLE}@127.0.0.1:{platform.dimse_port}"
            keys = ("-k", f"StudyInstanceUID={study}")
            done = await asyncio.to_thread(
                command, "move", to, "--dest", "VIEWER", *keys, codes=(1,)
            )
            assert "A702" in done.stdout + done.stderr
            assert instances_in(platform.dicomweb, study)


# ---- its end


async def test_sigterm_in_the_middle_of_a_c_store_lets_it_end(tmp_path: Path, source: Path) -> None:
    platform = Platform(tmp_path / "up")
    study = f"{ROOT}.12"
    _, sent = instance(source, study, 1)
    await asyncio.to_thread(platform.start)
    try:
        association = await call(platform.dimse_port, CT)
        context = association.agreement.context_for(sent.sop_class, sent.transfer_syntax)
        assert context is not None
        stopping = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            half = len(sent.data_set) // 2
            yield sent.data_set[:half]
            await stopping.wait()
            yield sent.data_set[half:]

        request = store_request(sent.sop_class, sent.sop_instance)

        async def storing() -> int:
            answers = association.request(context.context_id, request, slowly())
            async with aclosing(answers):
                return [answer.response.status async for answer in answers][-1]

        task = asyncio.create_task(storing())
        await until(
            lambda: list((platform.data / "spaces/default/.incoming").iterdir()),
            "it has begun to arrive",
        )
        assert platform.process is not None
        platform.process.terminate()
        await until(lambda: "site.stopping" in platform.log.read_text(), "it is stopping")
        with pytest.raises(AssociationRejectedError) as rejected:
            await call(platform.dimse_port, CT)
        assert rejected.value.is_transient
        stopping.set()
        assert await task == 0
        await association.release()
        assert await asyncio.to_thread(platform.stop) == 0
        assert "Traceback" not in platform.log.read_text()
        await asyncio.to_thread(platform.start)
        assert stored(platform.dicomweb, study, sent.sop_instance) == sent.data_set
    finally:
        platform.kill()

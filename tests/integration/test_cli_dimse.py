"""`echo`, `find`, `move`, `get` and `send … --to AE@host:port`, as a person runs them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from certificates import Authority
from command import command, command_line, environment
from dcmtk_peers import data_sets_in
from dimse_site import AE_TITLE, DimseSite, dimse_site
from instances import padded, with_uids
from platform_process import free_port
from pydicom.errors import InvalidDicomError
from query_site import listening
from storage_peers import Collector, destination

from imaging_ingestion.association.incoming import IncomingRequest
from imaging_ingestion.association.services.destination import Destination
from imaging_ingestion.association.tls import TlsFiles, TlsSettings
from imaging_ingestion.association.tls_store import Store
from imaging_ingestion.dicom.part10 import file_meta
from imaging_ingestion.dicom.scan import scan_bytes
from imaging_ingestion.dimse.command import CStoreRequest
from imaging_ingestion.dimse.sop_class import is_storage
from imaging_ingestion.transcoding.transcoder import Transcoder

STUDY = "1.2.826.0.1.3680043.8.498.11"
SERIES = f"{STUDY}.1"
EXPLICIT, IMPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


async def run(
    *arguments: str | Path, codes: tuple[int, ...] = (0,), **env: str
) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return await asyncio.to_thread(command, *arguments, env=environment(**env), codes=codes)


@pytest.fixture
def folder(tmp_path: Path, dicom_file: Callable[[str], Path]) -> Path:
    """Six instances of one series."""
    made = tmp_path / "files"
    made.mkdir()
    for number in range(6):
        content = with_uids(dicom_file("CT_small.dcm"), STUDY, SERIES, sop(number))
        (made / f"{number}.dcm").write_bytes(content)
    return made


@dataclass
class Everything:
    """A site that stores at one port and is asked at another."""

    dimse: DimseSite
    asked_port: int

    @property
    def store(self) -> str:
        return f"{AE_TITLE}@127.0.0.1:{self.dimse.port}"

    @property
    def ask(self) -> str:
        return f"{AE_TITLE}@127.0.0.1:{self.asked_port}"


@asynccontextmanager
async def everything(
    folder: Path, *destinations: Destination, transcoder: Transcoder | None = None
) -> AsyncIterator[Everything]:
    async with (
        dimse_site(folder) as dimse,
        listening(dimse.site, destinations, transcoder=transcoder) as asked,
    ):
        yield Everything(dimse, asked.port)


# --- echo


async def test_echo_says_who_answers(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site:
        to = f"{AE_TITLE}@127.0.0.1:{site.port}"
        done = await run("echo", to)
        assert done.stdout.startswith(f"{to} answers in ")
        assert "(IMG_INGESTION_1)" in done.stdout
        answer = json.loads((await run("echo", to, "--json")).stdout)
        assert answer["status"] == "0000"
        assert answer["milliseconds"] >= 0


async def test_echo_that_fails_says_why(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site:
        done = await run("echo", f"OTHER@127.0.0.1:{site.port}", codes=(1,))
        assert "called AE title not recognized" in done.stderr
    async with destination(Collector()) as (peer, _):
        done = await run("echo", f"WORKSTATION@127.0.0.1:{peer.port}", codes=(1,))
        assert "not for verification" in done.stderr
    port = free_port()
    done = await run("echo", f"OTHER@127.0.0.1:{port}", codes=(1,))
    assert f"127.0.0.1:{port}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["127.0.0.1:104"], "AE@HOST:PORT was expected"),
        (["PACS@host"], "the port is missing, as in PACS@host:104"),
        (["PACS@host:"], "'' is no port"),
        (["PACS@host:0"], "'0' is no port"),
        (["PACS@host:99999"], "'99999' is no port"),
        (["PACS@:104"], "'' is no host"),
        (["PACS@::1:104"], "an IPv6 address stands in brackets"),
        (["@host:104"], "an AE title has 1 to 16 characters"),
        (["SEVENTEEN-LETTERS@host:104"], "an AE title has 1 to 16 characters"),
        (["PACS@host:104", "--aet", "SEVENTEEN-LETTERS"], "an AE title has 1 to 16 characters"),
        (["PACS@host:104", "--key", "key.pem"], "--key: --cert was expected beside it"),
        (["PACS@host:104", "--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
    ],
)
async def test_what_makes_no_sense_is_told(arguments: list[str], told: str) -> None:
    done = await run("echo", *arguments, codes=(2,))
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_a_peer_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    done = await run("echo", f"PACS@127.0.0.1:{port}", "--timeout", "0.5", codes=(1,))
    assert "did not answer" in done.stderr
    server.close()


async def test_echo_over_tls(tmp_path: Path) -> None:
    authority = Authority()
    ca = authority.file(tmp_path / "ca.pem")
    server, client = authority.issue("server"), authority.issue("client", number=1)
    settings = TlsSettings(
        Store(server.pem(tmp_path / "server.pem"), None, None, None),
        Store(ca, None, None, None),
    )
    async with dimse_site(tmp_path / "site", tls=TlsFiles(settings, is_server=True)) as site:
        to = f"{AE_TITLE}@127.0.0.1:{site.tls_port}"
        cert = client.certificate_file(tmp_path / "cert.pem")
        key = client.key_file(tmp_path / "key.pem")
        await run("echo", to, "--cert", cert, "--key", key, "--ca", ca)
        p12 = client.p12(tmp_path / "client.p12")
        await run(
            "echo", to, "--cert", p12, "--ca", ca, DIMSE_TLS_KEYSTORE_PASSWORD="test-password"
        )
        await run("echo", to, "--tls", "--ca", ca, codes=(1,))  # without a certificate
        await run("echo", to, codes=(1,))  # without TLS
        other = Authority().file(tmp_path / "other.pem")
        done = await run("echo", to, "--cert", cert, "--key", key, "--ca", other, codes=(1,))
        assert "TLS" in done.stderr


# --- the whole way there and back


async def test_what_is_sent_is_found_and_comes_back_byte_for_byte(
    tmp_path: Path, folder: Path
) -> None:
    async with everything(tmp_path / "site") as site:
        done = await run("send", folder, "--to", site.store, "--concurrency", "3")
        assert "6 stored, 0 already there, 0 failed" in done.stdout
        found = await run("find", site.ask, "-k", f"StudyInstanceUID={STUDY}")
        assert STUDY in found.stdout
        assert "1 found" in found.stdout
        out = tmp_path / "out"
        done = await run("get", site.ask, "-k", f"StudyInstanceUID={STUDY}", "--out", out)
        assert f"6 received in {out}, 0 failed" in done.stdout
    assert await asyncio.to_thread(data_sets_in, out) == data_sets_in(folder)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{sop(i)}.dcm" for i in range(6))
    for path in out.iterdir():
        assert pydicom.dcmread(path).file_meta.MediaStorageSOPInstanceUID == path.stem


async def test_every_real_file_goes_there_and_comes_back_byte_for_byte(
    tmp_path: Path, dicom_files: list[Path]
) -> None:
    made = tmp_path / "files"
    made.mkdir()
    kinds = set()
    for number, path in enumerate(dicom_files):
        try:
            header = scan_bytes(path.read_bytes())
            kind = (header.transfer_syntax_uid, header.text(0x00080016))
            if kind in kinds or not header.has_file_meta:
                continue
            content = with_uids(path, STUDY, SERIES, sop(number))
            scan_bytes(content)
        except (ValueError, InvalidDicomError, AttributeError):  # pydicom cannot rewrite it
            continue
        if not is_storage(header.text(0x00080016) or ""):
            continue  # a listener says which others it gives out
        kinds.add(kind)
        (made / f"{number}.dcm").write_bytes(content)
    out = tmp_path / "out"
    async with everything(tmp_path / "site") as site:
        done = await run("send", made, "--to", site.store, "--json")
        summary = json.loads(done.stdout)
        assert summary["failed"] == 0
        assert summary["stored"] == len(kinds)
        done = await run("get", site.ask, "-k", f"StudyInstanceUID={STUDY}", "--out", out, "--json")
        assert json.loads(done.stdout)["failed"] == 0
    assert len(kinds) > 40
    assert len({syntax for syntax, _ in kinds}) > 10
    assert await asyncio.to_thread(data_sets_in, out) == data_sets_in(made)


# --- find


@pytest.fixture
async def filled(tmp_path: Path, folder: Path) -> AsyncIterator[Everything]:
    async with everything(tmp_path / "site") as site:
        await run("send", folder, "--to", site.store)
        yield site


async def test_find_at_each_level(filled: Everything) -> None:
    for level, key, expected in (
        ("patient", "PatientID=1CT1", {"00100020": "1CT1"}),
        ("study", "PatientName=CompressedSamples*", {"0020000D": STUDY}),
        ("series", f"0020000D={STUDY}", {"0020000E": SERIES, "00080060": "CT"}),
        ("series", f"(0020,000D)={STUDY}", {"0020000E": SERIES}),
        ("series", f"0020,000d={STUDY}", {"0020000E": SERIES}),
    ):
        done = await run("find", filled.ask, "--level", level, "-k", key, "--json")
        (found,) = json.loads(done.stdout)
        assert {tag: found[tag]["Value"][0] for tag in expected} == expected
    keys = ["-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={SERIES}"]
    done = await run("find", filled.ask, "--level", "image", *keys, "--json")
    assert {one["00080018"]["Value"][0] for one in json.loads(done.stdout)} == {
        sop(i) for i in range(6)
    }


async def test_find_shows_a_table_of_what_was_asked_for(filled: Everything) -> None:
    done = await run("find", filled.ask, "-k", "PatientName=CompressedSamples*", "-k", "StudyTime")
    for text in ("1 found", "PatientName", "CompressedSamples^CT1", "StudyTime", STUDY):
        assert text in done.stdout
    assert "0020000D" not in done.stdout


async def test_find_stops_at_its_limit(filled: Everything) -> None:
    keys = ["-k", f"StudyInstanceUID={STUDY}", "-k", f"SeriesInstanceUID={SERIES}"]
    arguments = ("find", filled.ask, "--level", "image", *keys, "--limit", "2")
    done = await run(*arguments, "--json")
    assert len(json.loads(done.stdout)) == 2
    assert "only the first 2 are shown" in done.stderr


async def test_nothing_found_is_no_failure(filled: Everything) -> None:
    done = await run("find", filled.ask, "-k", "PatientID=nobody")
    assert done.stdout == "nothing found\n"
    assert json.loads((await run("find", filled.ask, "-k", "PatientID=x", "--json")).stdout) == []


async def test_a_query_that_is_refused_says_why(filled: Everything) -> None:
    done = await run("find", filled.ask, "--level", "series", "-k", "Modality=CT", codes=(1,))
    assert "A900H" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("PatientNam=x", "'PatientNam' is no keyword"),
        ("0010002=x", "no tag such as 00100020"),
        ("00100021.PatientID=x", "is no sequence"),
        ("RequestAttributesSequence=x", "is a sequence"),
        ("NumberOfFrames.PatientID", "is no sequence"),
        ("Rows=many", "a number was expected"),
        ("PixelData=x", "cannot be matched"),
        ("00090001.x", "is no keyword"),
    ],
)
async def test_keys_that_make_no_sense_are_told(key: str, told: str) -> None:
    done = await run("find", "PACS@127.0.0.1:1", "-k", key, codes=(2,))
    assert told in done.stderr


async def test_keys_into_sequences_and_in_other_scripts(tmp_path: Path) -> None:
    file = pydicom.Dataset()
    file.SpecificCharacterSet = "ISO_IR 192"
    file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", sop(1)
    file.StudyInstanceUID, file.SeriesInstanceUID = STUDY, SERIES
    file.PatientName, file.PatientID = "山田^太郎", "1"
    request = pydicom.Dataset()
    request.RequestedProcedureID = "P-1"
    file.RequestAttributesSequence = [request]
    path = tmp_path / "one.dcm"
    file.save_as(path, implicit_vr=False, little_endian=True)
    path.write_bytes(file_meta(file.SOPClassUID, sop(1), EXPLICIT) + path.read_bytes())
    async with everything(tmp_path / "site") as site:
        await run("send", path, "--to", site.store)
        done = await run("find", site.ask, "-k", "PatientName=山田*")
        assert "山田^太郎" in done.stdout
        arguments = ["--level", "series", "-k", f"StudyInstanceUID={STUDY}"]
        for value, number in (("P-1", 1), ("P-2", 0)):
            key = f"RequestAttributesSequence.RequestedProcedureID={value}"
            done = await run("find", site.ask, *arguments, "-k", key, "--json")
            assert len(json.loads(done.stdout)) == number


# --- move


async def test_move_sends_to_somebody_else(tmp_path: Path, folder: Path) -> None:
    collector = Collector()
    async with (
        destination(collector) as (peer, _),
        everything(tmp_path / "site", peer) as site,
    ):
        await run("send", folder, "--to", site.store)
        arguments = ("move", site.ask, "--dest", "WORKSTATION", "-k", f"StudyInstanceUID={STUDY}")
        done = await run(*arguments)
        assert done.stdout == "6 completed, 0 failed, 0 with warnings\n"
        answer = json.loads((await run(*arguments, "--json")).stdout)
        assert (answer["status"], answer["completed"], answer["failed"]) == ("0000", 6, 0)
    assert sorted(set(collector.uids)) == sorted(sop(i) for i in range(6))


async def test_a_move_of_which_something_fails_says_what(tmp_path: Path, folder: Path) -> None:
    collector = Collector(
        statuses=lambda number, request: (
            0xA900 if request.affected_sop_instance_uid == sop(2) else 0
        )
    )
    async with (
        destination(collector) as (peer, _),
        everything(tmp_path / "site", peer) as site,
    ):
        await run("send", folder, "--to", site.store)
        done = await run(
            "move", site.ask, "--dest", "WORKSTATION", "-k", f"StudyInstanceUID={STUDY}", codes=(1,)
        )
    assert "5 completed, 1 failed, 0 with warnings" in done.stdout
    assert f"failed: {sop(2)}" in done.stdout


async def test_a_destination_that_is_not_known_is_told(filled: Everything) -> None:
    key = f"StudyInstanceUID={STUDY}"
    done = await run("move", filled.ask, "--dest", "NOBODY", "-k", key, codes=(1,))
    assert "A801H" in done.stdout


async def test_a_move_of_nothing_in_particular_makes_no_sense() -> None:
    arguments = ("move", "PACS@127.0.0.1:1", "--dest", "X", "-k", "PatientName=x")
    done = await run(*arguments, codes=(2,))
    assert "StudyInstanceUID" in done.stderr


# --- get


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["PatientID=1CT1"], range(6)),
        ([f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={SERIES}"], range(6)),
        (
            [
                f"StudyInstanceUID={STUDY}",
                f"SeriesInstanceUID={SERIES}",
                f"SOPInstanceUID={sop(1)}\\{sop(4)}",
            ],
            [1, 4],
        ),
        (["StudyInstanceUID=1.2.3"], []),
    ],
)
async def test_get_at_each_level(
    filled: Everything, tmp_path: Path, keys: list[str], expected: list[int]
) -> None:
    arguments = [part for key in keys for part in ("-k", key)]
    await run("get", filled.ask, *arguments, "--out", tmp_path / "out")
    found = {path.stem for path in (tmp_path / "out").iterdir()}
    assert found == {sop(i) for i in expected}


async def test_get_into_a_folder_that_cannot_be_made_is_told(
    filled: Everything, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    key = f"StudyInstanceUID={STUDY}"
    done = await run("get", filled.ask, "-k", key, "--out", out, codes=(2,))
    assert f"--out {out}: " in done.stderr


async def test_get_of_a_peer_without_it_says_so(tmp_path: Path) -> None:
    async with dimse_site(tmp_path / "site") as site:
        to = f"{AE_TITLE}@127.0.0.1:{site.port}"
        done = await run("get", to, "-k", "PatientID=1", "--out", tmp_path / "o", codes=(1,))
        assert "has no C-GET" in done.stderr


async def test_get_of_a_peer_that_breaks_off_leaves_no_half_file(
    tmp_path: Path, folder: Path
) -> None:
    async with everything(tmp_path / "site") as site:
        large = padded((folder / "0.dcm").read_bytes(), 32 << 20)
        (folder / "0.dcm").write_bytes(large)
        await run("send", folder, "--to", site.store)
        objects = await site.dimse.site.recorded()
        path = site.dimse.site.root / objects[sop(0)].object_name
        with path.open("r+b") as file:  # it cannot be read to its end
            file.truncate(4 << 20)
        out = tmp_path / "out"
        key = f"StudyInstanceUID={STUDY}"
        done = await run("get", site.ask, "-k", key, "--out", out, codes=(1,))
        assert sop(0) in done.stdout
        assert {p.name for p in out.iterdir()} == {f"{sop(i)}.dcm" for i in range(1, 6)}


# --- send


async def test_send_tells_of_each_file(tmp_path: Path, folder: Path) -> None:
    (folder / "notes.txt").write_text("not DICOM")

    def statuses(number: int, request: CStoreRequest) -> int:
        return {sop(1): 0xC000, sop(2): 0xB006}.get(request.affected_sop_instance_uid, 0)

    async with destination(Collector(statuses=statuses)) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        done = await run("send", folder, "--to", to, "--json", codes=(1,))
        summary = json.loads(done.stdout)
        assert (summary["stored"], summary["failed"], summary["not_dicom"]) == (5, 1, 1)
        by_name = {Path(one["path"]).name: one for one in summary["files"]}
        assert by_name["1.dcm"]["state"] == "failed"
        assert by_name["1.dcm"]["reason"].startswith("C000H ")
        assert by_name["2.dcm"]["state"] == "stored"
        assert by_name["2.dcm"]["reason"].startswith("B006H ")
        done = await run("send", folder, "--to", to, codes=(1,))
        assert "5 stored, 0 already there, 1 failed, 1 not DICOM" in done.stdout
        assert "1.dcm: C000H" in done.stdout


async def test_send_tries_again_what_may_pass(folder: Path) -> None:
    def statuses(number: int, request: CStoreRequest) -> int:
        return 0xA700 if number < 2 else 0

    collector = Collector(statuses=statuses)
    async with destination(collector) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        done = await run("send", folder, "--to", to, "--concurrency", "1")
        assert "6 stored, 0 already there, 0 failed" in done.stdout
    assert len(collector.arrived) == 8
    assert len(collector.associations) == 1


async def test_send_survives_associations_that_break_off(folder: Path) -> None:
    async def breaks_off(number: int, request: IncomingRequest) -> None:
        if len(collector.associations) <= 3:
            await request.association.abort()

    collector = Collector(before=breaks_off)
    async with destination(collector) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        done = await run("send", folder, "--to", to, "--concurrency", "1")
        assert "6 stored, 0 already there, 0 failed" in done.stdout
    assert set(collector.uids) == {sop(i) for i in range(6)}


async def test_send_uses_as_many_associations_as_it_may(folder: Path) -> None:
    together = asyncio.Event()
    waiting = 0

    async def waits(number: int, request: IncomingRequest) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            together.set()
        await asyncio.wait_for(together.wait(), 60)

    collector = Collector(before=waits)
    async with destination(collector) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        await run("send", folder, "--to", to, "--concurrency", "3")
    assert len(collector.associations) == 3


async def test_files_of_one_instance_are_sent_in_their_order(tmp_path: Path, folder: Path) -> None:
    newer = (folder / "0.dcm").read_bytes().replace(b"1CT1", b"2CT2")
    (folder / "9.dcm").write_bytes(newer)
    async with everything(tmp_path / "site") as site:
        await run("send", folder, "--to", site.store)
        stored = await site.dimse.data_set_of(sop(0))
    assert stored == newer[scan_bytes(newer).dataset_offset :]


async def test_send_transcodes_for_a_peer_that_takes_nothing_else(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    collector = Collector()
    async with destination(collector, syntaxes=(IMPLICIT,)) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        files = [dicom_file("MR_small_jp2klossless.dcm"), dicom_file("CT_small.dcm")]
        done = await run("send", *files, "--to", to)
        assert "2 stored" in done.stdout
    assert {one.transfer_syntax for one in collector.arrived} == {IMPLICIT}


async def test_a_file_that_the_peer_does_not_take_is_told(
    dicom_file: Callable[[str], Path],
) -> None:
    async with destination(Collector(), syntaxes=(J2K,)) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        done = await run("send", dicom_file("JPGExtended.dcm"), "--to", to, codes=(1,))
        assert "1 failed" in done.stdout


async def test_nobody_to_send_to_is_told(folder: Path) -> None:
    port = free_port()
    done = await run("send", folder, "--to", f"PACS@127.0.0.1:{port}", codes=(1,))
    assert "there is no server to send to: PACS@127.0.0.1" in done.stderr
    async with destination(Collector()) as (peer, _):
        done = await run("send", folder, "--to", f"OTHER@127.0.0.1:{peer.port}", codes=(1,))
        assert "called AE title not recognized" in done.stderr


@pytest.mark.parametrize("to", ["PACS@host", "PACS@host:x", "SEVENTEEN-LETTERS@host:104"])
async def test_a_destination_that_makes_no_sense_is_told(folder: Path, to: str) -> None:
    done = await run("send", folder, "--to", to, codes=(2,))
    assert done.stderr.startswith((to, "'SEVENTEEN-LETTERS'"))


async def test_a_peer_that_goes_away_fails_the_rest_at_once(folder: Path) -> None:
    stopping = asyncio.Event()

    async def stops(number: int, request: IncomingRequest) -> None:
        stopping.set()
        await asyncio.Event().wait()

    collector = Collector(before=stops)
    async with destination(collector) as (peer, listener):
        process = await asyncio.create_subprocess_exec(
            *command_line(
                "send", folder, "--to", f"WORKSTATION@127.0.0.1:{peer.port}", "--concurrency", "1",
                "--json",
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )  # fmt: skip
        await asyncio.wait_for(stopping.wait(), 60)
        for association in collector.associations:
            await association.abort()
        await listener.stop()
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    summary = json.loads(output)
    assert process.returncode == 1
    assert (summary["stored"], summary["failed"], summary["not_tried"]) == (0, 6, 0)


async def test_a_file_that_is_not_dicom_inside_is_told(tmp_path: Path) -> None:
    path = tmp_path / "broken.dcm"
    path.write_bytes(bytes(128) + b"DICM")
    async with destination(Collector()) as (peer, _):
        to = f"WORKSTATION@127.0.0.1:{peer.port}"
        done = await run("send", path, "--to", to, "--json", codes=(0, 1))
        assert json.loads(done.stdout)["stored"] == 0

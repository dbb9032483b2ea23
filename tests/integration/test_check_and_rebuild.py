"""`check` and `rebuild` as real processes, beside a real platform and without it."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import command
from forwarding_site import forwarding_site
from instances import with_uids
from platform_process import Platform, free_port

STUDY = "1.2.826.0.1.3680043.8.498.77"
NUMBER = 12


@pytest.fixture
def images(tmp_path: Path, dicom_file: Callable[[str], Path]) -> list[Path]:
    """Files of one study."""
    source = dicom_file("CT_small.dcm")
    (tmp_path / "images").mkdir()
    files = []
    for number in range(1, NUMBER + 1):
        file = tmp_path / "images" / str(number)
        file.write_bytes(with_uids(source, STUDY, f"{STUDY}.1", f"{STUDY}.1.{number}"))
        files.append(file)
    return files


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def lose_manifest(platform: Platform) -> None:
    """Its files are gone."""
    lost = list(platform.data.glob("*.db*"))
    assert lost
    for file in lost:
        file.unlink()


def age(platform: Platform, seconds: float) -> None:
    """Let every object have been written some time ago."""
    then = time.time() - seconds
    for file in platform.data.rglob("*.dcm"):
        os.utime(file, (then, then))


def test_a_site_goes_on_with_a_rebuilt_manifest_and_sends_nothing_twice_unless_it_is_to(
    tmp_path: Path, images: list[Path]
) -> None:
    port = free_port()
    # The binding's target is the platform itself, at a path that it refuses: a dead letter each.
    site = forwarding_site(f"http://127.0.0.1:{port}/nowhere", revisioning_delay=0)
    platform = Platform(tmp_path / "platform", site, port=port).start()
    command("send", *images[:-1], "--to", platform.url)
    files = ["-f", platform.folder / "site.yaml", "--data", platform.data]
    assert command("check", *files, "--grace", "0").stdout == "no differences\n"
    assert platform.stop() == 0

    lose_manifest(platform)
    assert "there is no manifest" in command("check", *files, codes=[2]).stderr
    assert "younger than 300 s" in command("rebuild", *files, codes=[1]).stdout
    found = json.loads(command("rebuild", *files, "--grace", "0", "--json").stdout)
    assert found["default"]["recorded"] == NUMBER - 1
    assert command("check", *files, "--grace", "0", "--deep").stdout == "no differences\n"

    platform.start()
    assert len(get(f"{platform.dicomweb}/instances?StudyInstanceUID={STUDY}")) == NUMBER - 1
    command("send", images[-1], "--to", platform.url)
    deadline = time.monotonic() + 120
    while not (told := get(f"{platform.url}/api/deliveries")["deliveries"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process: there is nothing to wait on
    assert [one["event_id"] for one in told] == [f"available/{STUDY}.1.{NUMBER}/1"]
    changes = get(f"{platform.url}/api/changes")["changes"]
    assert {one.get("sop_instance_uid") for one in changes} <= {f"{STUDY}.1.{NUMBER}", None}
    assert platform.stop() == 0

    lose_manifest(platform)
    command("rebuild", *files, "--grace", "0", "--announce")
    platform.start()
    while len(get(f"{platform.url}/api/deliveries")["deliveries"]) < NUMBER:
        assert time.monotonic() < deadline
        time.sleep(0.05)  # as above
    assert platform.stop() == 0


def test_a_running_site_takes_in_what_comes_while_its_manifest_is_rebuilt(
    tmp_path: Path, images: list[Path]
) -> None:
    platform = Platform(tmp_path / "platform").start()
    command("send", *images[: NUMBER // 2], "--to", platform.url)
    assert platform.stop() == 0
    lose_manifest(platform)
    age(platform, 600)

    platform.start()
    command("send", *images[NUMBER // 2 :], "--to", platform.url)
    done = command("rebuild", "--data", platform.data, codes=[0])
    assert f"{NUMBER // 2} recorded, {NUMBER // 2} known already" in done.stdout
    assert len(get(f"{platform.dicomweb}/instances?StudyInstanceUID={STUDY}")) == NUMBER
    assert command("check", "--data", platform.data, "--grace", "0").stdout == "no differences\n"
    assert platform.stop() == 0


def test_findings_are_told_a_line_each_and_by_the_exit_code(
    tmp_path: Path, images: list[Path]
) -> None:
    platform = Platform(tmp_path / "platform").start()
    command("send", *images, "--to", platform.url)
    objects = sorted(platform.data.rglob("*.dcm"))
    objects[0].unlink()
    objects[1].write_bytes(b"short")
    (objects[2].parent / "copy.dcm").write_bytes(objects[2].read_bytes())
    options = ["--data", platform.data, "--grace", "0"]
    *lines, last = command("check", *options, "--json", codes=[1]).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    assert json.loads(last)["findings"] == {"orphan": 1, "missing": 1, "wrong size": 1}
    assert {one["finding"]: one["space"] for one in found} == {
        "orphan": "default",
        "missing": "default",
        "wrong size": "default",
    }
    assert all(one["studyInstanceUID"] == STUDY for one in found if one["finding"] != "orphan")
    said = command("check", *options, "--repair", codes=[1]).stdout
    assert "copy.dcm" in said
    assert "-> removed: " in said
    assert "1 orphan, 1 missing, 1 wrong size; 1 repaired" in said
    assert platform.stop() == 0


@pytest.mark.parametrize("what", ["check", "rebuild"])
def test_what_cannot_be_run_says_why_and_makes_nothing(tmp_path: Path, what: str) -> None:
    said = command(what, "--data", tmp_path / "nowhere", codes=[2]).stderr
    assert f"there is no folder {tmp_path / 'nowhere'}" in said
    said = command(what, "--data", tmp_path, "--space", "other", codes=[2]).stderr
    assert "there is no space other: default expected" in said
    assert list(tmp_path.iterdir()) == []

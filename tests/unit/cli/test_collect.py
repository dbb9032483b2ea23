"""Finding DICOM files by their content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import obeying_permissions
from pydicom.misc import is_dicom
from recorded import data_set, part10

from imaging_ingestion.cli.collect import DicomFile, NotSent, files_of, lanes, look_at, sha256_of


def names(found: list[Path | NotSent], root: Path) -> list[str]:
    return [str((one if isinstance(one, Path) else one.path).relative_to(root)) for one in found]


def tree(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def test_folders_are_read_to_their_depth_files_first_each_by_name(tmp_path: Path):
    tree(tmp_path, "b/2", "b/1", "b/a/3", "a", "c", "0/x")
    assert names(list(files_of([tmp_path])), tmp_path) == [
        "a",
        "c",
        "0/x",
        "b/1",
        "b/2",
        "b/a/3",
    ]


def test_the_order_of_what_is_named_is_kept(tmp_path: Path):
    tree(tmp_path, "b/1", "a/1", "c")
    named = [tmp_path / "c", tmp_path / "b", tmp_path / "a"]
    assert names(list(files_of(named)), tmp_path) == ["c", "b/1", "a/1"]


def test_links_are_followed_and_loops_end(tmp_path: Path):
    tree(tmp_path, "real/1", "real/2")
    (tmp_path / "real" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "also").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "file").symlink_to(tmp_path / "real" / "1")
    assert names(list(files_of([tmp_path])), tmp_path) == ["file", "also/1", "also/2"]


def test_a_folder_that_is_named_twice_is_read_once(tmp_path: Path):
    tree(tmp_path, "a/1")
    assert names(list(files_of([tmp_path, tmp_path / "a"])), tmp_path) == ["a/1"]


def test_a_link_to_nothing_and_to_itself_is_told(tmp_path: Path):
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    broken, itself = files_of([tmp_path])
    assert broken == NotSent(tmp_path / "broken", "No such file or directory", failed=True)
    assert isinstance(itself, NotSent)
    assert itself.failed


def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    reason = "neither a file nor a folder"
    assert list(files_of([tmp_path])) == [
        NotSent(tmp_path / "pipe", reason),
        NotSent(tmp_path / "zero", reason),
    ]


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path):
    tree(tmp_path, "closed/1")
    (tmp_path / "closed").chmod(0)
    program = (
        "import sys; from pathlib import Path; from imaging_ingestion.cli.collect import files_of;"
        "print(list(files_of([Path(sys.argv[1])])))"
    )
    try:
        done = subprocess.run(
            [*obeying_permissions(), sys.executable, "-c", program, tmp_path],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        (tmp_path / "closed").chmod(0o700)
    expected = [NotSent(tmp_path / "closed", "Permission denied", failed=True)]
    assert done.stdout == f"{expected}\n"


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path):
    memory = Path("/proc/self/mem")  # a regular file, and an error at its first byte
    if not memory.exists():
        pytest.skip("no /proc here")
    found = look_at(memory)
    assert isinstance(found, NotSent)
    assert found.failed
    assert found.reason == "Input/output error"


def test_a_file_that_went_away_is_told(tmp_path: Path):
    assert look_at(tmp_path / "gone") == NotSent(
        tmp_path / "gone", "No such file or directory", failed=True
    )


def test_dicom_is_told_by_its_content(tmp_path: Path):
    made = data_set()
    content = part10(made)
    file = tmp_path / "holiday.jpeg"
    file.write_bytes(content)
    status = file.stat()
    offset = content.index(b"\x08\x00", 132)  # where group 0008 begins: the data set
    assert look_at(file) == DicomFile(
        file,
        len(content),
        status.st_mtime_ns,
        str(made.SOPInstanceUID),
        sop_class_uid=str(made.SOPClassUID),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        data_set_offset=offset,
    )


@pytest.mark.parametrize(
    "content", [b"", b"x", b"<html>" * 100, b"\x7fELF" + bytes(300), b"PK\x03\x04" + bytes(300)]
)
def test_what_is_not_dicom_is_left_out_and_is_no_failure(tmp_path: Path, content: bytes):
    file = tmp_path / "image.dcm"
    file.write_bytes(content)
    found = look_at(file)
    assert isinstance(found, NotSent)
    assert not found.failed
    assert found.reason


def test_broken_dicom_is_sent_so_that_the_server_says_what_is_wrong(tmp_path: Path):
    file = tmp_path / "cut"
    file.write_bytes(part10(data_set())[:200])
    found = look_at(file)
    assert isinstance(found, DicomFile)
    assert found.sop_instance_uid is None


def test_every_real_file_with_the_mark_of_dicom_is_found(dicom_files: list[Path]):
    left_out = [path for path in dicom_files if isinstance(look_at(path), NotSent)]
    assert [path for path in left_out if is_dicom(path)] == []
    assert len(left_out) < len(dicom_files) / 10


def test_files_of_one_instance_share_a_lane_in_their_order(tmp_path: Path):
    files = [
        DicomFile(tmp_path / name, 1, 0, uid)
        for name, uid in [("a", "1.1"), ("b", "1.2"), ("c", "1.1"), ("d", None), ("e", None)]
    ]
    assert [[file.path.name for file in lane] for lane in lanes(files)] == [
        ["a", "c"],
        ["b"],
        ["d"],
        ["e"],
    ]


def test_the_digest_is_that_of_the_bytes(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )

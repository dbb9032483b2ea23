"""The files of DIMSE_CONFIG_PATH."""

from __future__ import annotations

from pathlib import Path

import pytest

from imaging_ingestion.association.config import (
    ConfigFileError,
    StorageContexts,
    read_storage_contexts,
)
from imaging_ingestion.dimse.acceptor import UnknownStorage
from imaging_ingestion.dimse.sop_class import storage_sop_classes, storage_transfer_syntaxes

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
#: As Alvearie's own test has them.
CUIDS = "ComputedRadiographyImageStorage:1.2.840.10008.5.1.4.1.1.1\nCTImageStorage:" + CT + "\n"
TSUIDS = f"ImplicitVRLittleEndian:{IMPLICIT}\nJPEG2000Lossless:{JPEG_2000}\nX:{EXPLICIT}\n"


def written(folder: Path, cuids: str | None = None, tsuids: str | None = None) -> Path:
    for name, text in (("IMAGE_CUIDS", cuids), ("IMAGE_TSUIDS", tsuids)):
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_alvearies_files_are_read(tmp_path: Path) -> None:
    contexts = read_storage_contexts(written(tmp_path, CUIDS, TSUIDS))
    assert contexts.sop_classes == {"1.2.840.10008.5.1.4.1.1.1", CT}
    assert set(contexts.contexts()) == contexts.sop_classes
    assert contexts.unknown_storage is UnknownStorage.REFUSE


def test_transfer_syntaxes_are_wanted_in_our_order(tmp_path: Path) -> None:
    contexts = read_storage_contexts(written(tmp_path, CUIDS, TSUIDS))
    assert contexts.transfer_syntaxes == (EXPLICIT, JPEG_2000, IMPLICIT)
    assert contexts.policy().transfer_syntaxes == contexts.transfer_syntaxes


def test_a_syntax_we_do_not_know_is_wanted_last(tmp_path: Path) -> None:
    contexts = read_storage_contexts(written(tmp_path, None, f"1.2.3.4\n{IMPLICIT}\n"))
    assert contexts.transfer_syntaxes == (IMPLICIT, "1.2.3.4")


def test_without_files_everything_is_taken(tmp_path: Path) -> None:
    contexts = read_storage_contexts(tmp_path)
    assert contexts == StorageContexts()
    assert set(contexts.contexts()) == storage_sop_classes()
    assert contexts.transfer_syntaxes == storage_transfer_syntaxes()
    assert contexts.unknown_storage is UnknownStorage.PRIVATE


def test_one_file_alone_restricts_only_its_own(tmp_path: Path) -> None:
    contexts = read_storage_contexts(written(tmp_path, CT))
    assert contexts.sop_classes == {CT}
    assert contexts.transfer_syntaxes == storage_transfer_syntaxes()


@pytest.mark.parametrize(
    "text",
    [
        CT,
        f"  {CT}  # the usual\n\n# nothing\n",
        "CT Image Storage",
        "CTImageStorage",
        "ct image storage",
        f"Anything: {CT}",
        f"{CT}\r\n{CT}\r\n",
    ],
)
def test_a_line_may_be_a_uid_or_a_name_or_both(tmp_path: Path, text: str) -> None:
    assert read_storage_contexts(written(tmp_path, text)).sop_classes == {CT}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{CT}\nCTScanStorage\n", "IMAGE_CUIDS, line 2: 'CTScanStorage' is no UID"),
        ("CT:1.2..3\n", "IMAGE_CUIDS, line 1"),
        ("# nothing at all\n", "lists nothing"),
        ("", "lists nothing"),
    ],
)
def test_a_line_that_says_nothing_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=message):
        read_storage_contexts(written(tmp_path, text))


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "IMAGE_TSUIDS").write_bytes(b"\xff\xfe1\0")
    with pytest.raises(ConfigFileError, match="UTF-8"):
        read_storage_contexts(tmp_path)

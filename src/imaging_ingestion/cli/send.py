"""`send`: files to a server, with a progress bar and a summary that leaves no file out."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from imaging_ingestion.cli.collect import DicomFile, NotSent, files_of, look_at
from imaging_ingestion.cli.store_result import Sent, State
from imaging_ingestion.cli.stow_client import Destination, Report, StowClient, UnreachableError
from imaging_ingestion.cli.terminal import console, plain

if TYPE_CHECKING:
    from imaging_ingestion.cli.dimse.peer import DimseOptions

#: Lines of a summary's list of reasons; `--json` has them all.
_REASONS_SHOWN = 40


@dataclass(slots=True)
class Summary:
    """What became of every file that was found."""

    files: list[DicomFile] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    not_sent: list[NotSent] = field(default_factory=list)
    interrupted: bool = False

    @property
    def stored(self) -> int:
        """How many files the server stored."""
        return sum(one.state is State.STORED for one in self.sent)

    @property
    def already_there(self) -> int:
        """How many it had before."""
        return sum(one.state is State.ALREADY_THERE for one in self.sent)

    @property
    def kept_aside(self) -> list[tuple[Path, str]]:
        """The files that it has stored and does not show, each with the reason."""
        return [
            (one.file.path, one.reason or "") for one in self.sent if one.state is State.KEPT_ASIDE
        ]

    @property
    def failed(self) -> list[tuple[Path, str]]:
        """The files that should be there and are not, each with the reason."""
        refused = [
            (one.file.path, one.reason or "") for one in self.sent if one.state is State.FAILED
        ]
        return refused + [(one.path, one.reason) for one in self.not_sent if one.failed]

    @property
    def not_dicom(self) -> list[tuple[Path, str]]:
        """The files that there is nothing to do with."""
        return [(one.path, one.reason) for one in self.not_sent if not one.failed]

    @property
    def not_tried(self) -> list[Path]:
        """The files that it did not come to."""
        reported = {one.file.path for one in self.sent}
        return [file.path for file in self.files if file.path not in reported]

    def as_json(self) -> dict[str, object]:
        """The whole of it for machines."""
        listed = [(one.file.path, one.state.value, one.reason) for one in self.sent]
        listed += [
            (one.path, "failed" if one.failed else "not DICOM", one.reason) for one in self.not_sent
        ]
        listed += [(path, "not tried", None) for path in self.not_tried]
        return {
            "stored": self.stored,
            "already_there": self.already_there,
            "kept_aside": len(self.kept_aside),
            "failed": len(self.failed),
            "not_dicom": len(self.not_dicom),
            "not_tried": len(self.not_tried),
            "files": [
                {"path": str(path), "state": state, "reason": reason}
                for path, state, reason in listed
            ],
        }


def run(
    paths: Sequence[Path],
    to: str,
    *,
    concurrency: int,
    token: str | None,
    force: bool,
    as_json: bool,
    dimse: DimseOptions | None = None,
) -> None:
    """Send, and show what happens; `dimse` is how to call where `to` is an application entity.

    The exit code is 1 if anything failed or there is no server, 2 if what was asked makes no sense,
    130 after Ctrl-C.
    """
    try:
        client = _client(to, concurrency, token, force=force, dimse=dimse)
    except ValueError as error:
        _fail(str(error), 2)
    missing = [str(path) for path in paths if not os.path.lexists(path)]
    if missing:
        _fail(f"no such file or folder: {', '.join(missing)}", 2)
    shown = console(stderr=as_json)
    summary = Summary()
    try:
        find_files(paths, shown, summary)
        asyncio.run(send_files(client, shown, summary))
    except UnreachableError as error:
        _fail(f"there is no server to send to: {error}", 1)
    except KeyboardInterrupt:
        summary.interrupted = True
    if as_json:
        print(json.dumps(summary.as_json(), indent=1))
    else:
        show(summary, shown)
    if summary.interrupted:
        raise SystemExit(130)
    if summary.failed:
        raise SystemExit(1)


class Client(Protocol):
    """What sends files."""

    async def __aenter__(self) -> object:
        """Raises UnreachableError if there is nobody to send to."""

    async def __aexit__(self, *_exception: object) -> None:
        """Let go of the server."""

    async def send(self, files: Sequence[DicomFile], report: Report) -> None:
        """Send files and report what becomes of each. Raises UnreachableError."""


def _client(
    to: str, concurrency: int, token: str | None, *, force: bool, dimse: DimseOptions | None
) -> Client:
    """What sends to a URL, or to an application entity. Raises ValueError."""
    if "@" in to and "://" not in to:
        from imaging_ingestion.cli.cstore_client import cstore_client

        return cstore_client(to, dimse, concurrency=concurrency)
    return StowClient(Destination.parse(to), concurrency=concurrency, token=token, force=force)


def find_files(paths: Sequence[Path], shown: Console, summary: Summary) -> None:
    """Look for DICOM in files and folders; what is found goes to `summary`."""
    with shown.status("looking for DICOM files"):
        for path in files_of(paths):
            found = look_at(path) if isinstance(path, Path) else path
            if isinstance(found, DicomFile):
                summary.files.append(found)
            else:
                summary.not_sent.append(found)


async def send_files(client: Client, shown: Console, summary: Summary) -> None:
    """Send what was found, with a progress bar; `summary` grows while it goes on.

    Raises UnreachableError.
    """
    if not summary.files:
        return
    async with client:
        await _send_greeted(client, shown, summary)


async def _send_greeted(client: Client, shown: Console, summary: Summary) -> None:
    with Progress(
        SpinnerColumn(),
        TextColumn("sending"),
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.fields[files]} files"),
        _Rate(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=shown,
    ) as progress:
        total = sum(file.size for file in summary.files)
        task = progress.add_task("send", total=total, done=0, files=len(summary.files))

        def report(one: Sent) -> None:
            summary.sent.append(one)
            progress.update(task, advance=one.file.size, done=len(summary.sent))

        await client.send(summary.files, report)


def show(summary: Summary, shown: Console) -> None:
    """The summary for people: what was not stored and why, and how many of each."""
    for what, rows in (
        ("failed", summary.failed),
        ("kept aside", summary.kept_aside),
        ("not DICOM", summary.not_dicom),
    ):
        for path, reason in rows[:_REASONS_SHOWN]:
            shown.print(f"{what}: {plain(path)}: {plain(reason)}", soft_wrap=True)
        if len(rows) > _REASONS_SHOWN:
            shown.print(f"{what}: {len(rows) - _REASONS_SHOWN} more (--json lists them all)")
    counts = [
        f"{summary.stored} stored",
        f"{summary.already_there} already there",
        f"{len(summary.failed)} failed",
    ]
    if summary.kept_aside:
        counts.append(f"{len(summary.kept_aside)} kept aside")
    if summary.not_dicom:
        counts.append(f"{len(summary.not_dicom)} not DICOM")
    if summary.interrupted:
        counts.append(f"{len(summary.not_tried)} not tried")
    if not summary.files and not summary.not_sent:
        counts = ["no files found"]
    shown.print(", ".join(counts))


class _Rate(ProgressColumn):
    """Over the whole time: requests are answered in bursts."""

    def render(self, task: Task) -> Text:
        """The rate in files and bytes."""
        elapsed = task.finished_time or task.elapsed
        if not elapsed or not task.fields["done"]:
            return Text("")
        size = task.completed / elapsed / 2**20
        return Text(f"{task.fields['done'] / elapsed:,.1f} files/s {size:,.1f} MiB/s")


def _fail(sentence: str, code: int) -> NoReturn:
    print(plain(sentence), file=sys.stderr)
    raise SystemExit(code)

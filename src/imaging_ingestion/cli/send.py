"""`send`: files to a server, with a progress bar and a summary that leaves no file out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from imaging_ingestion.cli.collect import DicomFile, NotSent, files_of, look_at
from imaging_ingestion.cli.stow_client import Destination, Sent, State, StowClient

#: Lines of a summary's list of reasons; `--json` has them all.
_REASONS_SHOWN = 40


class _InstancesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The rate in files."""
        elapsed = task.elapsed or 0.0
        done = task.fields["files"]
        return Text(f"{done / elapsed:6.1f} files/s" if elapsed and done else "")


def run(
    paths: Sequence[Path],
    to: str,
    *,
    concurrency: int,
    token: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Send, show what happens, exit with 1 if anything failed and with 2 if nothing could begin."""
    try:
        destination = Destination.parse(to)
    except ValueError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    missing = [path for path in paths if not path.exists()]
    if missing:
        print(f"no such file or folder: {', '.join(map(str, missing))}", file=sys.stderr)
        raise SystemExit(2)
    console = Console(stderr=as_json)
    sent, not_sent = send_files(
        paths, destination, console, concurrency=concurrency, token=token, force=force
    )
    if as_json:
        print(json.dumps(_machine_readable(sent, not_sent), indent=1))
    else:
        _show(console, sent, not_sent)
    if any(one.state is State.FAILED for one in sent):
        raise SystemExit(1)


def send_files(
    paths: Sequence[Path],
    destination: Destination,
    console: Console,
    *,
    concurrency: int = 4,
    token: str | None = None,
    force: bool = False,
) -> tuple[list[Sent], list[NotSent]]:
    """Find and send, with a progress bar on `console`."""
    files: list[DicomFile] = []
    not_sent: list[NotSent] = []
    with console.status("looking for DICOM files"):
        for path in files_of(paths):
            found = look_at(path)
            if isinstance(found, DicomFile):
                files.append(found)
            else:
                not_sent.append(found)
    sent: list[Sent] = []
    with Progress(
        SpinnerColumn(),
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        _InstancesPerSecond(),
        TextColumn("{task.fields[bytes_done]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("send", total=len(files), files=0, bytes_done="")
        size = 0

        def report(one: Sent) -> None:
            nonlocal size
            sent.append(one)
            size += one.file.size
            progress.update(task, advance=1, files=len(sent), bytes_done=f"{size / 2**20:,.1f} MiB")

        client = StowClient(destination, concurrency=concurrency, token=token)
        asyncio.run(client.send(files, report, force=force))
    return sent, not_sent


def _count(sent: Sequence[Sent], state: State) -> int:
    return sum(one.state is state for one in sent)


def _show(console: Console, sent: Sequence[Sent], not_sent: Sequence[NotSent]) -> None:
    failed = [one for one in sent if one.state is State.FAILED]
    if failed or not_sent:
        table = Table(show_header=True, box=None)
        table.add_column("file")
        table.add_column("not stored, because", overflow="fold")
        for one in failed[:_REASONS_SHOWN]:
            table.add_row(str(one.file.path), one.reason)
        for other in not_sent[: max(0, _REASONS_SHOWN - len(failed))]:
            table.add_row(str(other.path), other.reason)
        console.print(table)
        hidden = len(failed) + len(not_sent) - _REASONS_SHOWN
        if hidden > 0:
            console.print(f"… and {hidden} more (--json lists them all)")
    console.print(
        f"{_count(sent, State.STORED)} stored, {_count(sent, State.ALREADY_THERE)} already there, "
        f"{len(failed)} failed, {len(not_sent)} not sent"
    )


def _machine_readable(sent: Sequence[Sent], not_sent: Sequence[NotSent]) -> dict[str, object]:
    return {
        "stored": _count(sent, State.STORED),
        "already_there": _count(sent, State.ALREADY_THERE),
        "failed": _count(sent, State.FAILED),
        "not_sent": len(not_sent),
        "files": [
            {"path": str(one.file.path), "state": one.state.value, "reason": one.reason}
            for one in sent
        ]
        + [
            {"path": str(other.path), "state": "not sent", "reason": other.reason}
            for other in not_sent
        ],
    }

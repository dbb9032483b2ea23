"""`spool`: what waits in the folder of a proxy, read from its database while it runs or not."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from rich.table import Column, Table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from imaging_ingestion.cli.terminal import console, plain
from imaging_ingestion.events.broker import ReplayFilter
from imaging_ingestion.manifest import ledger, spooled
from imaging_ingestion.manifest.deliveries import DEAD
from imaging_ingestion.tunnel.spool.settings import SUBSCRIPTION, SpoolSettings

_STUDIES: Final = 20  # that are shown
_PAGE: Final = 500
_BUSY: Final = 30.0  # seconds until the proxy lets us write
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


def show_status(data: Path, *, as_json: bool) -> None:
    """Print how much there is."""
    with _connected(data) as connection:
        found = spooled.backlog(connection, SUBSCRIPTION)
        kept = spooled.kept(connection)
        studies = spooled.waiting_studies(connection, SUBSCRIPTION, _STUDIES)
    if as_json:
        values = {**_values(found), "bytes": kept, "studies": [_values(one) for one in studies]}
        print(json.dumps(values, indent=1))
        return
    print(f"waiting    {found.waiting} instances{_age(found.oldest)}")
    print(f"dead       {found.dead} instances that were refused for good")
    print(f"delivered  {found.delivered} instances lately")
    print(f"kept       {_size(kept)}; {_size(_free(data))} of the disk are free")
    if studies:
        table = Table("for", _uid("Study"), "instances", "waits", "tries", "last answer")
        for one in studies:
            table.add_row(
                plain(one.space),
                plain(one.study_instance_uid),
                str(one.waiting),
                _since(one.oldest),
                str(one.attempts),
                plain(one.answer or ""),
            )
        console().print(table)


def show_dead(data: Path, *, study: str | None, as_json: bool) -> None:
    """Print the dead letters."""
    rows: list[ledger.LedgerEntry] = []
    with _connected(data) as connection:
        after: ledger.Key | None = None
        while True:
            page = ledger.page(
                connection,
                binding=SUBSCRIPTION,
                state=DEAD,
                study_instance_uid=study,
                after=after,
                limit=_PAGE,
            )
            rows += page
            if len(page) < _PAGE:
                break
            after = (page[-1].binding, page[-1].seq)
    if as_json:
        print(json.dumps([_values(row) for row in rows], indent=1))
        return
    if not rows:
        print("nothing was refused")
        return
    table = Table("for", _uid("Study"), _uid("SOP"), "tries", "answer")
    for row in rows:
        uid = row.event_id.split("/")[1]
        study_uid = row.study_instance_uid or ""
        answer = row.answer or ""
        table.add_row(
            plain(row.space), plain(study_uid), plain(uid), str(row.attempts), plain(answer)
        )
    console().print(table)


def replay_dead(data: Path, *, study: str | None) -> None:
    """Make dead letters due again."""
    which = ReplayFilter(binding=SUBSCRIPTION, state=DEAD, study_instance_uid=study)
    total = 0
    after: ledger.Key | None = None
    while True:
        with _connected(data, writes=True) as connection:
            now = time.time_ns() // 1000
            number, after = ledger.replay(connection, which, now, after)
        total += number
        if after is None:
            break
    print(f"{total} instances will be sent again")


def discard_dead(data: Path, *, study: str | None, is_sure: bool) -> None:
    """Delete dead letters."""
    if not is_sure:
        print("Nothing was deleted: say --yes to delete what was refused.", file=sys.stderr)
        raise SystemExit(2)
    objects = SpoolSettings(data).objects
    total = 0
    while True:
        with _connected(data, writes=True) as connection:
            number, names = spooled.discard(connection, SUBSCRIPTION, study, _PAGE)
        for name in names:
            with suppress(FileNotFoundError):
                (objects / name).unlink()
        total += number
        if number < _PAGE:
            break
    print(f"{total} instances were deleted")


@contextmanager
def _connected(data: Path, *, writes: bool = False) -> Iterator[Connection]:
    """A transaction; exit code 1 if there is no spool."""
    path = SpoolSettings(data).database

    def connect() -> sqlite3.Connection:
        made = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_BUSY)
        made.isolation_level = None
        made.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        made.execute("PRAGMA foreign_keys=ON")
        made.execute("PRAGMA synchronous=FULL")
        return made

    engine = sa.create_engine(
        "sqlite://", creator=connect, poolclass=sa.NullPool, hide_parameters=True
    )
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
            yield connection
            connection.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        print(f"{path} cannot be read: {error.orig}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        engine.dispose()


def _uid(of: str) -> Column:
    return Column(f"{of} Instance UID", overflow="fold")


def _values(found: msgspec.Struct) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(found)
    return values


def _free(data: Path) -> int:
    found = os.statvfs(data)
    return found.f_bavail * found.f_frsize


def _age(oldest: int | None) -> str:
    return "" if oldest is None else f", the first for {_since(oldest)}"


def _since(at: int) -> str:
    return str(timedelta(seconds=max(0, int(time.time() - at / 1e6))))


def _size(count: float) -> str:
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"

"""`quarantine`: what a running server keeps aside, and deciding about it, through its API."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from rich.table import Table

from imaging_ingestion.cli.api_client import Api, ApiError
from imaging_ingestion.cli.terminal import console, plain

_DIGEST_SHOWN = 12  # characters of a SHA-256


def show_quarantine(
    url: str, *, core: str | None, space: str | None, resolved: bool, as_json: bool
) -> None:
    """Print what waits, and with `resolved` what became of the others."""
    filters = {"core": core, "space": space, "resolved": "true" if resolved else None}
    try:
        rows = list(_api(url).rows("quarantine", filters))
    except ApiError as error:
        _fail(error, 1)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console().print(_table(url, rows) if rows else "nothing is kept aside")


def decide(
    url: str, numbers: Sequence[int], decision: str, *, core: str | None, as_json: bool
) -> None:
    """Accept or discard some, each by itself; exit code 1 if any could not be."""
    api = _api(url)
    decided: list[dict[str, Any]] = []
    failed = False
    for number in numbers:
        try:
            decided.append(api.post(f"quarantine/{number}/{decision}", {}, {"core": core}))
        except ApiError as error:
            failed = True
            print(plain(f"{number}: {error}"), file=sys.stderr)
    if as_json:
        print(json.dumps(decided, indent=1))
    else:
        for one in decided:
            print(plain(f"{one['id']}: {one['resolution']}: {one['sop_instance_uid']}"))
    if failed:
        raise SystemExit(1)


def _table(url: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("number", "space", "since (UTC)", "what differs", title="Quarantine")
    table.add_column("became")
    table.add_column("SOP Instance UID", overflow="fold")
    table.caption = f"{url.rstrip('/')}/api/quarantine/NUMBER/instance is the DICOM file"
    for row in rows:
        since = datetime.fromtimestamp(row["held_at"] / 1e6, UTC).strftime("%F %T")
        cells = (
            str(row["id"]),
            row["space"],
            since,
            _differences(row["differences"]),
            row["resolution"] or "",
            row["sop_instance_uid"],
        )
        table.add_row(*map(plain, cells))
    return table


def _differences(differences: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{name}: {there[:_DIGEST_SHOWN]} here, {came[:_DIGEST_SHOWN]} came"
        if name == "sha256"
        else f"{name}: {there} here, {came} came"
        for name, (there, came) in differences.items()
    )


def _api(url: str) -> Api:
    try:
        return Api(url)
    except ValueError as error:
        _fail(f"--url {error}", 2)


def _fail(sentence: object, code: int) -> NoReturn:
    print(plain(str(sentence)), file=sys.stderr)
    raise SystemExit(code)

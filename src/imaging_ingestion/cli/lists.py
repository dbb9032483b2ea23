"""`studies`, `deliveries`, `replay`: what a running server says through its API."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from rich.table import Table

from imaging_ingestion.cli.api_client import Api, ApiError
from imaging_ingestion.cli.terminal import console, plain

_ANSWER_SHOWN = 200  # characters


def show_studies(url: str, *, core: str | None, space: str | None, as_json: bool) -> None:
    """Print every study."""
    rows = _rows(url, "studies", {"core": core, "space": space})
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console().print(studies_table(rows) if rows else "no studies")


def show_deliveries(
    url: str,
    *,
    core: str | None,
    binding: str | None,
    state: str | None,
    study: str | None,
    as_json: bool,
) -> None:
    """Print the delivery ledger."""
    filters = {"core": core, "binding": binding, "state": state, "study": study}
    rows = _rows(url, "deliveries", filters)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        console().print(deliveries_table(rows) if rows else "no deliveries")


def replay_deliveries(
    url: str,
    *,
    core: str | None,
    binding: str | None,
    state: str,
    study: str | None,
    as_json: bool,
) -> None:
    """Drive deliveries again and print how many."""
    body = {
        "binding": binding,
        "state": None if state == "any" else state,
        "study_instance_uid": study,
    }
    try:
        answer = _api(url).post("replay", body, {"core": core})
    except ApiError as error:
        _fail(error, 1)
    if as_json:
        print(json.dumps(answer))
        return
    count = answer["replayed"]
    print(f"{count} {'delivery is' if count == 1 else 'deliveries are'} due again")


def studies_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Studies for people."""
    table = Table("space", "patient", "date", "description", "modalities", title="Studies")
    table.add_column("series", justify="right")
    table.add_column("instances", justify="right")
    table.add_column("revision", justify="right")
    table.add_column("Study Instance UID", overflow="fold")
    for row in rows:
        name = (row["patient_name"] or "").split("=", 1)[0].replace("^", " ").strip()
        patient = " ".join(filter(None, (name, row["patient_id"] and f"({row['patient_id']})")))
        revision = "settling" if row["revision_due_at"] else row["revision"]
        cells = (
            row["space"],
            patient,
            row["study_date"] or "",
            row["study_description"] or "",
            ", ".join(row["modalities"]),
            row["number_of_series"],
            row["number_of_instances"],
            "" if revision is None else revision,
            row["study_instance_uid"],
        )
        table.add_row(*(plain(str(cell)) for cell in cells))
    return table


def deliveries_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The ledger for people."""
    table = Table("binding", "number", "state", title="Deliveries")
    table.add_column("tries", justify="right")
    table.add_column("next try (UTC)")
    table.add_column("last answer", overflow="fold")
    table.add_column("event", overflow="fold")
    for row in rows:
        due = row["next_at"]
        cells = (
            row["binding"],
            row["seq"],
            row["state"],
            row["attempts"],
            datetime.fromtimestamp(due / 1e6, UTC).strftime("%F %T") if due else "",
            (row["answer"] or "")[:_ANSWER_SHOWN],
            row["event_id"],
        )
        table.add_row(*(plain(str(cell)) for cell in cells))
    return table


def _rows(url: str, resource: str, filters: dict[str, str | None]) -> list[dict[str, Any]]:
    try:
        return list(_api(url).rows(resource, filters))
    except ApiError as error:
        _fail(error, 1)


def _api(url: str) -> Api:
    try:
        return Api(url)
    except ValueError as error:
        _fail(f"--url {error}", 2)


def _fail(sentence: object, code: int) -> NoReturn:
    print(plain(str(sentence)), file=sys.stderr)
    raise SystemExit(code)

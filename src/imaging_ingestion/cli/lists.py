"""`studies`, `deliveries`, `replay`: what a running server says through its API."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

_TIMEOUT = 30.0  # seconds


def show_studies(url: str, *, as_json: bool) -> None:
    """Print every study."""
    rows = list(_pages(url, "studies", {}))
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    Console().print(studies_table(rows))


def studies_table(rows: list[dict[str, Any]]) -> Table:
    """Studies for people."""
    table = Table("space", "patient", "date", "description", "modalities", title="Studies")
    table.add_column("series", justify="right")
    table.add_column("instances", justify="right")
    table.add_column("revision", justify="right")
    table.add_column("study instance UID", overflow="fold")
    for row in rows:
        name = (row["patient_name"] or "").split("=", 1)[0].replace("^", " ").strip()
        patient = " ".join(filter(None, (name, row["patient_id"] and f"({row['patient_id']})")))
        revision = "settling" if row["revision_due_at"] else row["revision"]
        table.add_row(
            row["space"],
            patient,
            row["study_date"] or "",
            row["study_description"] or "",
            ", ".join(row["modalities"]),
            str(row["number_of_series"]),
            str(row["number_of_instances"]),
            "" if revision is None else str(revision),
            row["study_instance_uid"],
        )
    return table


def show_deliveries(url: str, *, binding: str | None, state: str | None, as_json: bool) -> None:
    """Print the delivery ledger."""
    rows = list(_pages(url, "deliveries", {"binding": binding, "state": state}))
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    Console().print(deliveries_table(rows))


def deliveries_table(rows: list[dict[str, Any]]) -> Table:
    """The ledger for people."""
    table = Table("binding", "number", "state", "tries", "next try", title="Deliveries")
    table.add_column("last answer", overflow="fold")
    table.add_column("event", overflow="fold")
    for row in rows:
        due = row["next_at"]
        table.add_row(
            row["binding"],
            str(row["seq"]),
            row["state"],
            str(row["attempts"]),
            datetime.fromtimestamp(due / 1e6, UTC).strftime("%F %T") if due else "",
            (row["answer"] or "")[:200],
            row["event_id"],
        )
    return table


def replay_deliveries(
    url: str, *, binding: str | None, state: str, study: str | None, as_json: bool
) -> None:
    """Drive deliveries again and print how many."""
    body = {
        "binding": binding,
        "state": None if state == "any" else state,
        "study_instance_uid": study,
    }
    answer = call(url, "/api/replay", body)
    print(json.dumps(answer) if as_json else f"{answer['replayed']} deliveries are due again")


def call(url: str, path: str, body: object | None = None) -> Any:
    """Ask the API; the program ends with a sentence if it does not answer."""
    data = None if body is None else json.dumps(body).encode()
    if not url.startswith(("http://", "https://")):
        _fail(f"--url {url}: http://HOST:PORT was expected")
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        url.rstrip("/") + path, data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        _fail(f"{url}{path} answers {error.code}: {error.read()[:500].decode(errors='replace')}")
    except (urllib.error.URLError, OSError) as error:
        _fail(f"{url} does not answer: {getattr(error, 'reason', error)}")


def _fail(sentence: str) -> None:
    print(sentence, file=sys.stderr)
    raise SystemExit(1)


def _pages(url: str, resource: str, filters: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    after = None
    while True:
        query = {k: v for k, v in {**filters, "after": after, "limit": 1000}.items() if v}
        answer = call(url, f"/api/{resource}?{urlencode(query)}")
        yield from answer[resource]
        after = answer["next"]
        if after is None:
            return

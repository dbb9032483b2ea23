"""The SQL statements that a test causes, and how a database means to run them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection

_NO_QUERY = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|PRAGMA|SHOW|SET)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """A statement as it went to the driver."""

    text: str
    parameters: Any


@contextmanager
def recorded_statements() -> Iterator[list[Statement]]:
    """Everything that is asked of any database meanwhile."""
    found: list[Statement] = []

    def note(_connection: object, _cursor: object, text: str, parameters: Any, *_: object) -> None:
        if not _NO_QUERY.match(text):
            found.append(Statement(text, parameters))

    event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)


@dataclass
class Plan:
    """Which indexes a statement is answered from, which tables are read whole, and its text."""

    indexes: set[str] = field(default_factory=set)
    read_whole: set[str] = field(default_factory=set)
    text: str = ""

    def add(self, other: Plan) -> None:
        """What another statement does, too."""
        self.indexes |= other.indexes
        self.read_whole |= other.read_whole
        self.text += f"{other.text}\n"


def plan_of(connection: Connection, statement: Statement) -> Plan:
    """How the database means to run a statement, with its parameters."""
    if connection.dialect.name == "sqlite":
        return _sqlite_plan(connection, statement)
    return _postgresql_plan(connection, statement)


def _sqlite_plan(connection: Connection, statement: Statement) -> Plan:
    rows = connection.exec_driver_sql(
        f"EXPLAIN QUERY PLAN {statement.text}", statement.parameters
    ).all()
    plan = Plan(text="\n".join(row.detail for row in rows))
    for row in rows:
        # SEARCH enters an index at a place; SCAN reads from its beginning, or the table.
        if found := re.match(r"(SEARCH|SCAN) (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", row[3]):
            how, table, index = found.groups()
            if how == "SCAN" and table in {"study", "series", "instance", "instance_metadata"}:
                plan.read_whole.add(table)
            if index:
                plan.indexes.add(index)
    return plan


def _postgresql_plan(connection: Connection, statement: Statement) -> Plan:
    (text,) = connection.exec_driver_sql(
        f"EXPLAIN (FORMAT JSON) {statement.text}", statement.parameters
    ).scalars()
    tree = json.loads(text) if isinstance(text, str) else text
    plan = Plan(text=json.dumps(tree, indent=1))
    todo = [tree[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        if "Index Name" in node:
            plan.indexes.add(node["Index Name"])
            if "Index Cond" not in node:  # from its beginning
                plan.read_whole.add(node["Index Name"])
        elif "Seq Scan" in node["Node Type"]:
            plan.read_whole.add(node["Relation Name"])
    return plan

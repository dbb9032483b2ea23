"""Statements that run for every batch of instances, at the least cost.

On SQLite a statement of the recording transaction takes some 10 microseconds, and SQLAlchemy about
60 more to get there and back; with one instance in a batch that is a third of all the CPU that it
costs (benchmarks/record.py). So there the statement is compiled once and handed to the driver with
a tuple. On PostgreSQL the round trip is what counts, and SQLAlchemy runs it as always.

Only for columns whose values the driver takes and gives as they are: numbers, text and bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

Row = Sequence[Any]
Parameters = Mapping[str, Any]
_Arguments = Callable[[Parameters], tuple[Any, ...]]


class Prepared:
    """A Core statement. Raises what SQLAlchemy raises."""

    def __init__(self, statement: sa.Executable) -> None:
        self._statement = statement
        #: By the names of the parameters and the lengths of those that are lists.
        self._compiled: dict[tuple[object, ...], tuple[str, _Arguments]] = {}

    def all(self, connection: Connection, parameters: Parameters) -> Sequence[Row]:
        """The rows it finds. Parameters that are expanding (`IN`) are lists."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, parameters).all()
        sql, arguments = self._for(connection.dialect, parameters)
        with _driver(connection, sql) as driver:
            return driver.execute(sql, arguments(parameters)).fetchall()

    def each(self, connection: Connection, rows: Sequence[Parameters]) -> None:
        """Run it for each of some rows of parameters, which all have the same names."""
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, rows)
            return
        sql, arguments = self._for(connection.dialect, rows[0])
        with _driver(connection, sql) as driver:
            driver.executemany(sql, map(arguments, rows))

    def returned(self, connection: Connection, rows: Sequence[Parameters]) -> Sequence[Row]:
        """As `each`, and what it returns (`RETURNING`), in no order."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, rows).all()
        sql, arguments = self._for(connection.dialect, rows[0])
        with _driver(connection, sql) as driver:
            return [found for row in rows for found in driver.execute(sql, arguments(row))]

    def _for(self, dialect: Dialect, parameters: Parameters) -> tuple[str, _Arguments]:
        lists = [name for name, value in parameters.items() if isinstance(value, list)]
        key = (*parameters, *(len(parameters[name]) for name in lists))
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._compile(dialect, parameters, lists)
        return found

    def _compile(
        self, dialect: Dialect, parameters: Parameters, lists: Collection[str]
    ) -> tuple[str, _Arguments]:
        statement = cast("sa.ClauseElement", self._statement)
        if lists:  # there is a place for each value, so it has to know how many there are
            statement = statement.params(dict(parameters))
        compiled = statement.compile(
            dialect=dialect,
            column_keys=list(parameters),
            compile_kwargs={"render_postcompile": bool(lists)},
        )
        if not isinstance(compiled, SQLCompiler) or compiled.positiontup is None:
            raise TypeError("SQLite's parameters are expected to have places, not names")
        sql, places = compiled.string, compiled.positiontup
        if not lists:
            return sql, lambda row: tuple([row[name] for name in places])
        # SQLAlchemy numbers the values of a list from 1.
        value_of = {
            f"{name}_{n + 1}": (name, n) for name in lists for n in range(len(parameters[name]))
        }
        found = [value_of.get(name, (name, None)) for name in places]
        return sql, lambda row: tuple(
            [row[name] if n is None else row[name][n] for name, n in found]
        )


@contextmanager
def _driver(connection: Connection, sql: str) -> Iterator[sqlite3.Connection]:
    """SQLite's own connection; its errors become SQLAlchemy's."""
    try:
        yield cast("sqlite3.Connection", connection.connection.dbapi_connection)
    except sqlite3.Error as error:
        # Without the parameters: an error's text goes to the log, patient data does not.
        raise sa.exc.DBAPIError.instance(
            sql, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
        ) from error

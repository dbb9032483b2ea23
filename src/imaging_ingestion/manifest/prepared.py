"""Statements that run for every batch of instances, at the least cost.

A statement of the recording transaction takes the databases some 10 (SQLite) to 60 (PostgreSQL)
microseconds, and SQLAlchemy about as much again to get there and back (benchmarks/record.py). So it
is compiled once and handed to the driver with a tuple.

On PostgreSQL the round trip counts as well, and a text that is new to a connection is parsed and
planned: there a list is one parameter (`one_of`), and many rows are one statement over an array for
each column (`Rows`), so that a statement has the same text for any number of them.

Only for columns whose values the drivers take and give as they are: numbers, text and bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

Row = Sequence[Any]
Parameters = Mapping[str, Any]
_Arguments = Callable[[Parameters], tuple[Any, ...]]


class one_of(sa.ColumnElement[bool]):  # noqa: N801 - written and read as a function of SQL
    """The column is one of the values of a parameter, which is a list."""

    inherit_cache = False

    def __init__(self, column: sa.ColumnElement[Any], parameter: str) -> None:
        self.column = column
        self.parameter = parameter
        self.type = sa.Boolean()


@compiles(one_of)
def _in_list(
    element: one_of, compiler: SQLCompiler, *, lengths: Mapping[str, int], **options: Any
) -> str:
    length = lengths[element.parameter]
    values: list[sa.BindParameter[Any]] = [
        sa.bindparam(_of_list(element.parameter, n)) for n in range(length)
    ]
    found = element.column.in_(values) if values else sa.false()
    return compiler.process(found, lengths=lengths, **options)


@compiles(one_of, "postgresql")
def _in_array(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    values = sa.bindparam(element.parameter, type_=postgresql.ARRAY(element.column.type))
    return compiler.process(element.column == sa.any_(values), **options)


class Prepared:
    """A Core statement. Raises what SQLAlchemy raises."""

    def __init__(self, statement: sa.Executable) -> None:
        self._statement = statement
        #: By the dialect, the names of the parameters and, where it matters, the lengths of lists.
        self._compiled: dict[tuple[object, ...], tuple[str, _Arguments]] = {}

    def all(self, connection: Connection, parameters: Parameters) -> Sequence[Row]:
        """The rows it finds. The parameters of `one_of` are lists."""
        sql, arguments = self._for(connection.dialect, parameters)
        return _fetched(connection, sql, arguments(parameters))

    def run(self, connection: Connection, parameters: Parameters) -> None:
        """Execute it, where there is nothing to fetch."""
        sql, arguments = self._for(connection.dialect, parameters)
        with _cursor(connection, sql) as cursor:
            cursor.execute(sql, arguments(parameters))

    def _for(self, dialect: Dialect, parameters: Parameters) -> tuple[str, _Arguments]:
        lengths: dict[str, int] = {}
        if dialect.name == "sqlite":  # there is a place for each value
            lists = (item for item in parameters.items() if isinstance(item[1], list))
            lengths = {name: len(values) for name, values in lists}
        key = (dialect.name, *parameters, *lengths.values())
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = _compile(self._statement, dialect, lengths, parameters)
        return found


class _ByRow(NamedTuple):
    """The statement for one row, and the one for arrays of the parameters that are named."""

    statement: sa.Executable
    of_arrays: Callable[[Sequence[str]], sa.Executable]


class Rows:
    """A statement for each of some rows of parameters, which all have the same names.

    Raises what SQLAlchemy raises.
    """

    def __init__(self, by_row: _ByRow) -> None:
        self._by_row = by_row
        self._compiled: dict[tuple[str, ...], tuple[str, _Arguments]] = {}

    @classmethod
    def inserted(
        cls,
        table: sa.Table,
        *returning: sa.Column[Any],
        ignore_known: bool = False,
        lock: int | None = None,
        in_order_of: sa.Column[Any] | None = None,
    ) -> Rows:
        """New rows of a table; with `ignore_known` those that a unique index has stay as they are.

        They are numbered in their order; on PostgreSQL with the advisory lock `lock` in hand, which
        the transaction then keeps. Whoever adds a value of a unique index that another is adding,
        too, waits for that other's commit; so that two never wait for each other, they are added
        `in_order_of` its column there.
        """

        def of_arrays(names: Sequence[str]) -> sa.Executable:
            new = _arrays([(name, table.c[name]) for name in names])
            rows = sa.select(*(new.c[name] for name in names)).order_by(new.c.place)
            if lock is not None:
                # Joined and then sorted, it is there before the first row gets its number.
                held = sa.select(sa.func.pg_advisory_xact_lock(sa.literal_column(str(lock))))
                rows = rows.join_from(new, held.cte("held"), sa.true())
            added = list(names)
            if in_order_of is not None:
                key = next(iter(table.primary_key)).name
                sequence: sa.ColumnClause[str] = sa.literal_column(f"'{table.name}_{key}_seq'")
                numbered = rows.add_columns(sa.func.nextval(sequence).label(key)).subquery("rows")
                added.append(key)
                rows = sa.select(*(numbered.c[name] for name in added))
                rows = rows.order_by(numbered.c[in_order_of.name])
            insert = postgresql.insert(table).from_select(added, rows)
            if ignore_known:
                insert = insert.on_conflict_do_nothing()
            return insert.returning(*returning) if returning else insert

        insert = sqlite.insert(table)
        if ignore_known:
            insert = insert.on_conflict_do_nothing()
        return cls(_ByRow(insert.returning(*returning) if returning else insert, of_arrays))

    @classmethod
    def updated(cls, table: sa.Table, *columns: str) -> Rows:
        """Columns set by primary key: the parameters are `pk` and `new_` with each column's name.

        No two rows have the same key.
        """
        key = next(iter(table.primary_key))
        of_parameter = {"pk": key, **{f"new_{name}": table.c[name] for name in columns}}

        def of_arrays(names: Sequence[str]) -> sa.Executable:
            new = _arrays([(name, of_parameter[name]) for name in names])
            values = {of_parameter[name]: new.c[name] for name in names if name != "pk"}
            return sa.update(table).where(key == new.c.pk).values(values)

        values: dict[str, sa.BindParameter[Any]] = {
            name: sa.bindparam(f"new_{name}") for name in columns
        }
        by_row = sa.update(table).where(key == sa.bindparam("pk")).values(values)
        return cls(_ByRow(by_row, of_arrays))

    def each(self, connection: Connection, rows: Sequence[Parameters]) -> None:
        """Run it for each of the rows."""
        sql, arguments = self._for(connection.dialect, rows[0])
        if connection.dialect.name != "sqlite":
            _fetched(connection, sql, arguments(_columns(rows)))
            return
        with _cursor(connection, sql) as cursor:
            cursor.executemany(sql, list(map(arguments, rows)))

    def returned(self, connection: Connection, rows: Sequence[Parameters]) -> Sequence[Row]:
        """As `each`, and what it returns (`RETURNING`), in no order."""
        sql, arguments = self._for(connection.dialect, rows[0])
        if connection.dialect.name != "sqlite":
            return _fetched(connection, sql, arguments(_columns(rows)))
        with _cursor(connection, sql) as cursor:
            found: list[Row] = []
            for row in rows:
                cursor.execute(sql, arguments(row))
                found += cursor.fetchall()
            return found

    def _for(self, dialect: Dialect, parameters: Parameters) -> tuple[str, _Arguments]:
        key = (dialect.name, *parameters)
        found = self._compiled.get(key)
        if found is None:
            statement = self._by_row.statement
            if dialect.name != "sqlite":
                statement = self._by_row.of_arrays(list(parameters))
            found = self._compiled[key] = _compile(statement, dialect, {}, parameters)
        return found


def _arrays(columns: Sequence[tuple[str, sa.Column[Any]]]) -> sa.TableValuedAlias:
    """A table `new` of rows that come as an array for each column, numbered by `place`."""
    parameters = (
        sa.bindparam(name, type_=postgresql.ARRAY(column.type)) for name, column in columns
    )
    names = (sa.column(name, column.type) for name, column in columns)
    return (
        sa.func.unnest(*parameters)
        .table_valued(*names, with_ordinality="place")
        .render_derived(name="new")
    )


def _columns(rows: Sequence[Parameters]) -> Parameters:
    """Rows as one list for each name."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _compile(
    executable: sa.Executable, dialect: Dialect, lengths: Mapping[str, int], names: Collection[str]
) -> tuple[str, _Arguments]:
    """The text, and what makes the driver's tuple; `lengths` are those of lists that count."""
    statement = cast("sa.ClauseElement", executable)
    compiled = statement.compile(
        dialect=dialect, column_keys=list(names), compile_kwargs={"lengths": lengths}
    )
    if not isinstance(compiled, SQLCompiler) or compiled.positiontup is None:
        raise TypeError("the driver's parameters are expected to have places, not names")
    places = compiled.positiontup
    if not lengths:
        return compiled.string, lambda row: tuple([row[name] for name in places])
    value_of = {_of_list(name, n): (name, n) for name, size in lengths.items() for n in range(size)}
    found = [value_of.get(name, (name, None)) for name in places]
    return compiled.string, lambda row: tuple(
        [row[name] if n is None else row[name][n] for name, n in found]
    )


def _of_list(parameter: str, n: int) -> str:
    """The name of a list's value where each has a place of its own."""
    return f"{parameter}_{n}"


def _fetched(connection: Connection, sql: str, arguments: tuple[Any, ...]) -> Sequence[Row]:
    with _cursor(connection, sql) as cursor:
        cursor.execute(sql, arguments)
        return cursor.fetchall()


@contextmanager
def _cursor(connection: Connection, sql: str) -> Iterator[DBAPICursor]:
    """The driver's own cursor; its errors become SQLAlchemy's."""
    dialect = connection.dialect
    errors = dialect.loaded_dbapi.Error
    pooled = connection.connection
    cursor = pooled.cursor()
    try:
        yield cursor
    except errors as error:
        # What a connection has prepared is no longer valid after some migrations: a new one is.
        stale = getattr(dialect.loaded_dbapi, "InvalidCachedStatementError", ())
        is_gone = isinstance(error, stale) or dialect.is_disconnect(
            error, pooled.dbapi_connection, cursor
        )
        if is_gone:
            connection.invalidate(error)
        # Without the parameters: an error's text goes to the log, patient data does not.
        raise sa.exc.DBAPIError.instance(
            sql,
            None,
            error,
            errors,
            hide_parameters=True,
            connection_invalidated=is_gone,
            dialect=dialect,
        ) from error
    except asyncio.CancelledError:
        connection.invalidate()  # the server is at the statement still, and may never answer
        raise
    finally:
        cursor.close()

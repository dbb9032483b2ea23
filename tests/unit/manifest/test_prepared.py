"""Statements that go past SQLAlchemy do the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.prepared import Prepared, Rows, one_of

NUMBERS = sa.Table(
    "numbers",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, unique=True, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("content", sa.LargeBinary),
)
INSERT = Rows.inserted(NUMBERS)
RETURNING = Rows.inserted(NUMBERS, NUMBERS.c.id, NUMBERS.c.name)
ORDERED = Rows.inserted(NUMBERS, NUMBERS.c.id, in_order_of=NUMBERS.c.name)
IGNORING = Rows.inserted(NUMBERS, ignore_known=True)
UPDATE = Rows.updated(NUMBERS, "size")
SELECT = Prepared(
    sa.select(NUMBERS.c.name, NUMBERS.c.size, NUMBERS.c.content)
    .where(
        NUMBERS.c.size >= sa.bindparam("least"),
        one_of(NUMBERS.c.name, "names"),
        one_of(NUMBERS.c.size, "sizes"),
        NUMBERS.c.size >= sa.bindparam("least"),  # one value, two places
    )
    .order_by(NUMBERS.c.id)
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = open_database(database_url)
    await opened.write(NUMBERS.metadata.create_all)
    yield opened
    await opened.write(NUMBERS.metadata.drop_all)
    await opened.close()


def fill(connection: Connection) -> None:
    INSERT.each(
        connection,
        [{"name": f"n{n}", "size": n << 40, "content": bytes([n])} for n in range(6)],
    )


async def test_rows_are_found_whatever_the_number_of_values(database: Database) -> None:
    def found(connection: Connection, names: list[str], sizes: list[int]) -> list[object]:
        wanted = {"least": 1 << 40, "names": names, "sizes": [size << 40 for size in sizes]}
        return [tuple(row) for row in SELECT.all(connection, wanted)]

    await database.write(fill)
    for _ in range(2):  # compiled, and compiled already
        assert await database.read(found, ["n1"], [1]) == [("n1", 1 << 40, b"\1")]
        assert await database.read(found, ["n3", "n2"], [2, 3, 4]) == [
            ("n2", 2 << 40, b"\2"),
            ("n3", 3 << 40, b"\3"),
        ]
        assert await database.read(found, ["n0", "n2"], [0, 3]) == []
        assert await database.read(found, [], [1]) == []


async def test_what_is_inserted_is_returned_with_its_keys(database: Database) -> None:
    def insert(connection: Connection) -> dict[str, int]:
        rows = [{"name": name, "content": None, "size": None} for name in ("a", "b", "c")]
        return {name: pk for pk, name in RETURNING.returned(connection, rows)}

    keys = await database.write(insert)
    assert set(keys) == {"a", "b", "c"}
    assert len(set(keys.values())) == 3


async def test_each_row_changes_what_it_names(database: Database) -> None:
    def change(connection: Connection) -> list[tuple[str, int]]:
        (one, other) = RETURNING.returned(connection, [{"name": "n6"}, {"name": "n7"}])
        rows = [{"pk": one[0], "new_size": 7}, {"new_size": None, "pk": other[0]}]
        UPDATE.each(connection, rows)
        return [
            (name, size)
            for name, size in connection.execute(
                sa.select(NUMBERS.c.name, NUMBERS.c.size).where(NUMBERS.c.size < 9)
            )
            if size
        ]

    await database.write(fill)
    assert await database.write(change) == [("n6", 7)]


@pytest.mark.parametrize("rows", [INSERT, ORDERED])
async def test_rows_are_numbered_in_their_order(database: Database, rows: Rows) -> None:
    def insert(connection: Connection) -> list[str]:
        rows.each(connection, [{"name": f"{n * 7919 % 1000}"} for n in range(1000)])
        return list(connection.execute(sa.select(NUMBERS.c.name).order_by("id")).scalars())

    assert await database.write(insert) == [f"{n * 7919 % 1000}" for n in range(1000)]


async def test_what_is_known_stays_as_it_is(database: Database) -> None:
    def insert(connection: Connection) -> list[object]:
        fill(connection)
        IGNORING.each(connection, [{"name": "n1", "size": 7}, {"name": "new", "size": 8}])
        rows = connection.execute(sa.select(NUMBERS.c.name, NUMBERS.c.size).order_by("id"))
        return [tuple(row) for row in rows][1::5]

    assert await database.write(insert) == [("n1", 1 << 40), ("new", 8)]


async def test_columns_that_one_use_leaves_out_are_there_for_the_next(database: Database) -> None:
    def insert(connection: Connection) -> list[object]:
        INSERT.each(connection, [{"name": "short"}])
        INSERT.each(connection, [{"name": "long", "size": 1, "content": b"x"}])
        INSERT.each(connection, [{"content": b"y", "name": "other"}])
        return [tuple(row) for row in connection.execute(sa.select(NUMBERS).order_by("id"))]

    rows = await database.write(insert)
    assert [row[1:] for row in rows] == [  # type: ignore[index]
        ("short", None, None),
        ("long", 1, b"x"),
        ("other", None, b"y"),
    ]


async def test_an_error_is_sqlalchemys_names_no_value_and_undoes_the_transaction(
    database: Database,
) -> None:
    def insert(connection: Connection) -> None:
        INSERT.each(connection, [{"name": "once"}, {"name": "secret"}, {"name": "secret"}])

    with pytest.raises(sa.exc.IntegrityError) as raised:
        await database.write(insert)
    if database.dialect == "sqlite":  # elsewhere the server itself may tell the value
        assert "secret" not in str(raised.value)

    def count(connection: Connection) -> int:
        return connection.execute(sa.select(sa.func.count()).select_from(NUMBERS)).scalar_one()

    assert await database.read(count) == 0


async def test_what_a_connection_has_prepared_may_be_out_of_date(
    postgres_database_url: str,
) -> None:
    database, other = open_database(postgres_database_url), open_database(postgres_database_url)
    wanted = {"least": 0, "names": ["n1"], "sizes": [1 << 40]}

    def found(connection: Connection) -> list[tuple[object, ...]]:
        return [tuple(row) for row in SELECT.all(connection, wanted)]

    try:
        await database.write(NUMBERS.metadata.create_all)
        await database.write(fill)
        assert await database.read(found) == [("n1", 1 << 40, b"\1")]
        altered = "ALTER TABLE numbers ALTER name TYPE varchar(100)"
        await other.write(lambda c: c.exec_driver_sql(altered))
        for run in (database.read, database.write):
            assert await run(found) == [("n1", 1 << 40, b"\1")]
    finally:
        await database.close()
        await other.close()

"""Statements that go past SQLAlchemy on SQLite do what they do through it on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.database import Database, open_database
from imaging_ingestion.manifest.prepared import Prepared

NUMBERS = sa.Table(
    "numbers",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, unique=True, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("content", sa.LargeBinary),
)
INSERT = Prepared(sa.insert(NUMBERS))
RETURNING = Prepared(sa.insert(NUMBERS).returning(NUMBERS.c.id, NUMBERS.c.name))
UPDATE = Prepared(
    sa.update(NUMBERS)
    .where(NUMBERS.c.name == sa.bindparam("of"))
    .values(size=sa.bindparam("new_size"))
)
SELECT = Prepared(
    sa.select(NUMBERS.c.name, NUMBERS.c.size, NUMBERS.c.content)
    .where(
        NUMBERS.c.size >= sa.bindparam("least"),
        NUMBERS.c.name.in_(sa.bindparam("names", expanding=True)),
        NUMBERS.c.size.in_(sa.bindparam("sizes", expanding=True)),
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
        UPDATE.each(connection, [{"of": "n1", "new_size": 7}, {"new_size": 8, "of": "n2"}])
        return [
            (name, size)
            for name, size in connection.execute(
                sa.select(NUMBERS.c.name, NUMBERS.c.size).where(NUMBERS.c.size < 9)
            )
            if size
        ]

    await database.write(fill)
    assert sorted(await database.write(change)) == [("n1", 7), ("n2", 8)]


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

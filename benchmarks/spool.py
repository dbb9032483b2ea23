"""Store and forward over a network with a round trip of 100 ms.

    python benchmarks/spool.py                       # 600 CT instances of 530 KB
    python benchmarks/spool.py --targets dcmtk --associations 1 4

How fast the near proxy takes instances, beside the same target on the LAN: while the network is
away, and while it is there, so that instances go on beside those that come (medians). How fast they
reach the target then, beside one association with it over the same network (the best). The network
is a process that passes bytes on after 50 ms: between the near proxy and NATS, or between the
client and the target. All of it, the target too, shares one machine and its disk.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from corpus import Template, ct_template
from dimse import SERVERS, WARM_UP, Figures, drive
from dimse_servers import Scp
from servers import START_TIMEOUT, free_port
from tunnel import nats_server, proxy

DIRECT = 40  # instances over the slow network, directly


@contextmanager
def slow_network(server_port: int, delay: float) -> Iterator[tuple[int, psutil.Process]]:
    """A port behind which the server is far away: `delay` seconds each way; and the network."""
    port = free_port()
    script = Path(__file__).with_name("delay.py")
    command = [sys.executable, str(script), str(port), str(server_port), str(delay)]
    with subprocess.Popen(command) as child:
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield port, psutil.Process(child.pid)
        finally:
            child.terminate()


def waiting(database: Path) -> int:
    """Instances that the spool has."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM instance").fetchone()[0])


def measure(
    scp: Scp,
    template: Template,
    folder: Path,
    associations: int,
    count: int,
    repeat: int,
    rtt: float,
) -> None:
    """One target, in turns."""
    studies = itertools.count(1)
    database = folder / "spool" / "spool.db"
    best: dict[str, float] = {}
    rates: dict[str, list[float]] = {}

    def keep(name: str, rate: float) -> None:
        best[name] = max(best.get(name, 0.0), rate)

    def driven(way: Scp, number: int, how_many: int) -> Figures:
        found = drive(way, template, next(studies), how_many, number)
        if found is None:
            raise SystemExit(f"{way.name} takes fewer than {number} associations")
        return found

    with ExitStack() as stack:
        nats = stack.enter_context(nats_server())
        behind = {"DIMSE_TARGET_HOST": "127.0.0.1", "DIMSE_TARGET_PORT": str(scp.port)}
        stack.enter_context(proxy(nats, "B", **behind))
        far_nats, network = stack.enter_context(slow_network(nats, rtt / 2))
        near = stack.enter_context(
            proxy(
                far_nats,
                "A",
                DIMSE_PROXY_MODE="spool",
                DIMSE_SPOOL_DIRECTORY=str(folder / "spool"),
                DIMSE_SPOOL_MIN_FREE="0",
            )
        )
        target_port, _ = stack.enter_context(slow_network(scp.port, rtt / 2))
        far_target = replace(scp, port=target_port)
        spool = replace(scp, port=near.port, name="spool")
        idle = near.rss_mib()
        for way in (scp, spool, far_target):
            driven(way, 1, WARM_UP)
        most = idle

        def emptied() -> None:
            nonlocal most
            while waiting(database):
                most = max(most, near.rss_mib())
                time.sleep(0.02)

        emptied()
        for _ in range(repeat):
            lan = driven(scp, associations, count).rate
            network.suspend()
            alone = driven(spool, associations, count).rate
            network.resume()
            began = time.perf_counter()
            emptied()
            keep("drain", count / (time.perf_counter() - began))
            beside = driven(spool, associations, count).rate
            emptied()
            keep("far", driven(far_target, 1, DIRECT).rate)
            for name, rate in (("lan", lan), ("alone", alone), ("beside", beside)):
                rates.setdefault(name, []).append(rate)
        middle = {name: statistics.median(found) for name, found in rates.items()}
        lan, alone, beside = middle["lan"], middle["alone"], middle["beside"]
        far, drain = best["far"], best["drain"]
        print(
            f"{scp.name:<20}{associations:>3}{lan:>8.0f}{alone:>8.0f}{alone / lan:>6.2f}"
            f"{beside:>8.0f}{beside / lan:>6.2f}{far:>8.1f}{drain:>8.1f}{drain / far:>6.1f}"
            f"   {idle:.0f} MiB RSS idle, {most:.0f} at most",
            flush=True,
        )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", choices=SERVERS, default=["ours", "dcmtk"])
    parser.add_argument("--associations", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--count", type=int, default=600, help="instances of each run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the best counts")
    parser.add_argument("--round-trip", type=float, default=0.1, help="seconds")
    arguments = parser.parse_args()
    template = ct_template()
    print(f"{arguments.count} CT instances of {template.size / 1000:.0f} KB", flush=True)
    print(
        f"{'target':<20}{'n':>3}{'LAN/s':>8}{'away/s':>8}{'':>6}{'there/s':>8}{'':>6}{'far/s':>8}"
        f"{'drain/s':>8}"
    )
    for name in arguments.targets:
        for number in arguments.associations:
            with TemporaryDirectory() as folder, SERVERS[name](Path(folder)) as scp:
                measure(
                    scp,
                    template,
                    Path(folder),
                    number,
                    arguments.count,
                    arguments.repeat,
                    arguments.round_trip,
                )


if __name__ == "__main__":
    main()

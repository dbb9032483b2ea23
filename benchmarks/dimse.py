"""C-STORE beside Orthanc, pynetdicom's and dcmtk's storescp, in one run on one machine.

    python benchmarks/dimse.py                      # all four, 600 CT instances of 530 KB
    python benchmarks/dimse.py --servers ours orthanc --associations 1 4

    python benchmarks/dimse.py --idle 500           # 16 busy associations beside 500 idle

Each is driven by the same raw client over 1, 4 and 16 associations (a thread each, at most one
instance under way on each), and by dcmtk's `storescu` as anyone would. We and Orthanc answer
answer when object and index are synchronised to disk; the other two only write files. The client
shares the cores with the server, so the CPU an instance costs is the truer figure. Rates are noisy;
the ratios of one run are what counts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from corpus import Template, ct_template
from dimse_client import RefusedError, StoreClient
from dimse_servers import Scp, Start, dcmtk, orthanc, ours, pynetdicom

SERVERS: dict[str, Start] = {
    "ours": ours,
    "orthanc": orthanc,
    "pynetdicom": pynetdicom,
    "dcmtk": dcmtk,
}
WARM_UP = 20  # instances before the clock runs


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: instances a second, and milliseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


def drive(
    scp: Scp, template: Template, study: int, count: int, associations: int
) -> Figures | None:
    """Store `count` instances over some associations; None if it takes fewer of these."""
    numbers = itertools.count()
    lock = threading.Lock()
    latencies: list[float] = []
    failures: list[Exception] = []
    clients: list[StoreClient] = []
    try:
        for _ in range(associations):
            clients.append(StoreClient("127.0.0.1", scp.port))
    except RefusedError:
        for client in clients:
            client.close()
        return None
    for client in clients:
        client.prepare(template)

    def work(client: StoreClient) -> None:
        try:
            while not failures:
                with lock:
                    number = next(numbers)
                if number >= count:
                    break
                began = time.perf_counter()
                client.store(study, 1, number)
                latencies.append(time.perf_counter() - began)
        except (RefusedError, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    cpu, began = scp.cpu_seconds(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    cpu = scp.cpu_seconds() - cpu
    if failures:
        raise SystemExit(f"{scp.name}: {failures[0]!r}")
    for client in clients:
        client.close()
    quantiles = statistics.quantiles(latencies, n=100)
    return Figures(count / elapsed, cpu / count * 1e3, quantiles[49] * 1e3, quantiles[98] * 1e3)


def drive_beside_idle(start: Start, template: Template, count: int, idle: int) -> None:
    """16 busy associations alone and beside many idle ones, in turns, and what it does to them."""
    with TemporaryDirectory() as folder, start(Path(folder)) as scp:
        drive(scp, template, 1, WARM_UP, 1)
        for turn in range(3):
            alone = drive(scp, template, 10 + turn, count, 16)
            assert alone is not None
            crowd = [StoreClient("127.0.0.1", scp.port) for _ in range(idle)]
            beside = drive(scp, template, 20 + turn, count, 16)
            assert beside is not None
            for client in crowd:  # each of them is still there
                client.prepare(template)
                client.store(30 + turn, 1, id(client) % 10**8)
                client.close()
            print(
                f"16 busy alone: {alone.rate:.0f} /s, p99 {alone.p99:.1f} ms; beside {idle} idle: "
                f"{beside.rate:.0f} /s, p99 {beside.p99:.1f} ms (x {beside.p99 / alone.p99:.2f}); "
                f"{scp.rss_mib():.0f} MiB RSS",
                flush=True,
            )


def drive_storescu(scp: Scp, template: Template, study: int, count: int, folder: Path) -> Figures:
    """Send a folder by dcmtk's storescu, over its one association."""
    sent = folder / f"files-{study}"
    sent.mkdir()
    for number in range(count):
        (sent / f"{number}.dcm").write_bytes(b"".join(template.instance(study, 1, number)))
    command = ["storescu", "+sd", "-aec", "BENCH", "127.0.0.1", str(scp.port), str(sent)]
    cpu, began = scp.cpu_seconds(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    elapsed = time.perf_counter() - began
    cpu = scp.cpu_seconds() - cpu
    each = elapsed / count * 1e3
    return Figures(count / elapsed, cpu / count * 1e3, each, each)


def measure(
    names: Sequence[str],
    template: Template,
    associations: Sequence[int],
    count: int,
    repeat: int,
    few: int,
) -> dict[str, dict[str, Figures]]:
    """The figures of each server, of each way the run with the best rate.

    All servers are there all the time, and take turns run by run: whatever else the machine does
    meets all of them.
    """
    results: dict[str, dict[str, Figures]] = {name: {} for name in names}
    studies = itertools.count(1)
    with ExitStack() as stack:
        folders = {name: Path(stack.enter_context(TemporaryDirectory())) for name in names}
        scps = {name: stack.enter_context(SERVERS[name](folders[name])) for name in names}

        def run(name: str, label: str, found: Figures | None) -> None:
            best = results[name].get(label)
            if found is not None and (best is None or found.rate > best.rate):
                results[name][label] = found

        for scp in scps.values():
            drive(scp, template, next(studies), WARM_UP, 1)
        for number in associations:
            label = f"{number} association{'s' if number > 1 else ''}"
            for _ in range(repeat):
                for name, scp in scps.items():
                    run(name, label, drive(scp, template, next(studies), count, number))
        for _ in range(repeat if few else 0):
            for name, scp in scps.items():
                found = drive_storescu(scp, template, next(studies), few, folders[name])
                run(name, "dcmtk storescu", found)
        for scp in scps.values():
            print(f"{scp.name}: {scp.rss_mib():.0f} MiB RSS at the end", flush=True)
    return results


def report(results: dict[str, dict[str, Figures]]) -> None:
    """Print all of it, and the others' figures as multiples of ours."""
    print(f"\n{'':<18}{'':<16}{'rate /s':>9}{'CPU ms':>9}{'p50 ms':>9}{'p99 ms':>9}", end="")
    print(f"{'our rate':>11}{'its CPU':>10}")
    reference = results.get("ours", {})
    labels = dict.fromkeys(label for figures in results.values() for label in figures)
    for label in labels:
        for name, figures in results.items():
            it, mine = figures.get(label), reference.get(label)
            line = f"{label:<18}{name:<16}"
            if it is None:
                print(line + "rejects so many associations")
                continue
            line += f"{it.rate:>9.0f}{it.cpu:>9.2f}{it.p50:>9.2f}{it.p99:>9.2f}"
            if mine is not None and name != "ours":
                line += f"{f'x {mine.rate / it.rate:.1f}':>11}{f'x {it.cpu / mine.cpu:.1f}':>10}"
            print(line)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--associations", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--count", type=int, default=600, help="instances of each run")
    parser.add_argument("--repeat", type=int, default=3, help="runs; the best counts")
    parser.add_argument("--storescu", type=int, default=100, help="instances sent by storescu")
    parser.add_argument("--idle", type=int, help="idle associations beside 16 busy ones")
    arguments = parser.parse_args()
    template = ct_template()
    if arguments.idle:
        drive_beside_idle(ours, template, arguments.count, arguments.idle)
        return
    print(f"{arguments.count} CT instances of {template.size / 1000:.0f} KB", flush=True)
    results = measure(
        arguments.servers,
        template,
        arguments.associations,
        arguments.count,
        arguments.repeat,
        arguments.storescu,
    )
    report(results)


if __name__ == "__main__":
    main()

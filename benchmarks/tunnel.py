"""C-STORE through both proxies and NATS, beside the same target called directly.

    python benchmarks/tunnel.py                     # 600 CT instances of 530 KB, 4 associations
    python benchmarks/tunnel.py --targets dcmtk --associations 1 4 16

The proxies are processes of their own (`imaging-ingestion run proxy`), and so is the NATS server;
all of them, the client and the target share the machine. Runs take turns, direct and through the
tunnel; the best of each counts. The resident memory of the proxies is looked at while they work.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from corpus import Template, ct_template
from dimse import SERVERS, WARM_UP, Figures, drive
from dimse_servers import Scp
from servers import START_TIMEOUT, free_port

WATCH = 0.05  # seconds between two looks at the memory


@dataclass
class ProxyProcess:
    """`run proxy` with its two processes, and the most memory that it was seen to have."""

    port: int
    process: psutil.Process
    most: float = 0.0

    def rss_mib(self) -> float:
        """Resident memory of both, MiB."""
        both = [self.process, *self.process.children()]
        return float(sum(one.memory_info().rss for one in both)) / 2**20

    def cpu_seconds(self) -> float:
        """User and system time of both so far."""
        both = [self.process, *self.process.children()]
        return float(sum(sum(one.cpu_times()[:2]) for one in both))


@contextmanager
def nats_server() -> Iterator[int]:
    """A NATS server; its port."""
    port = free_port()
    program = Path(sys.executable).with_name("nats-server")
    command = [str(program), "-a", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        try:
            yield port
        finally:
            child.terminate()


@contextmanager
def proxy(nats_port: int, channel: str, **settings: str) -> Iterator[ProxyProcess]:
    """A proxy that is ready."""
    port, http_port = free_port(), free_port()
    environment = {
        **os.environ,
        "DIMSE_NATS_URL": f"127.0.0.1:{nats_port}",
        "DIMSE_NATS_SUBJECT_CHANNEL": channel,
        "DIMSE_HOST": "127.0.0.1",
        "DIMSE_PORT": str(port),
        "HTTP_PORT": str(http_port),
        **settings,
    }
    command = [sys.executable, "-m", "imaging_ingestion.cli.main", "run", "proxy"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as child:
        try:
            _await_ready(f"http://127.0.0.1:{http_port}/healthz/ready")
            yield ProxyProcess(port, psutil.Process(child.pid))
        finally:
            child.terminate()


def _await_ready(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def watch(proxies: Sequence[ProxyProcess], stop: threading.Event) -> None:
    """Remember the most memory of each."""
    while not stop.wait(WATCH):
        for one in proxies:
            one.most = max(one.most, one.rss_mib())


def measure(
    scp: Scp, template: Template, associations: Sequence[int], count: int, repeat: int
) -> None:
    """One target: directly and through the tunnel, in turns."""
    studies = itertools.count(1)
    with ExitStack() as stack:
        port = stack.enter_context(nats_server())
        near = stack.enter_context(proxy(port, "A"))
        target = {"DIMSE_TARGET_HOST": "127.0.0.1", "DIMSE_TARGET_PORT": str(scp.port)}
        far = stack.enter_context(proxy(port, "B", **target))
        proxies = [near, far]
        idle = [one.rss_mib() for one in proxies]
        through = replace(scp, port=near.port)
        for way in (scp, through):
            drive(way, template, next(studies), WARM_UP, 1)
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(proxies, stop))
        watcher.start()
        for number in associations:
            best: dict[str, Figures] = {}
            cost = 0.0
            for _ in range(repeat):
                for name, way in (("direct", scp), ("tunnel", through)):
                    before = sum(one.cpu_seconds() for one in proxies)
                    found = drive(way, template, next(studies), count, number)
                    if found is None:
                        raise SystemExit(f"{scp.name} takes fewer than {number} associations")
                    if name not in best or found.rate > best[name].rate:
                        best[name] = found
                    if name == "tunnel":
                        cost = sum(one.cpu_seconds() for one in proxies) - before
            direct, tunnel = best["direct"], best["tunnel"]
            print(
                f"{scp.name:<20}{number:>3}{direct.rate:>10.0f}{tunnel.rate:>10.0f}"
                f"{tunnel.rate / direct.rate:>8.2f}{direct.p50:>9.1f}{tunnel.p50:>9.1f}"
                f"{cost / count * 1e3:>9.2f}",
                flush=True,
            )
        stop.set()
        watcher.join()
        for name, one, before in zip("AB", proxies, idle, strict=True):
            print(f"  proxy {name}: {before:.0f} MiB RSS idle, {one.most:.0f} MiB at most")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", choices=SERVERS, default=["ours", "dcmtk"])
    parser.add_argument("--associations", nargs="+", type=int, default=[4])
    parser.add_argument("--count", type=int, default=600, help="instances of each run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the best counts")
    arguments = parser.parse_args()
    template = ct_template()
    print(f"{arguments.count} CT instances of {template.size / 1000:.0f} KB", flush=True)
    print(
        f"{'target':<20}{'n':>3}{'direct/s':>10}{'tunnel/s':>10}{'ratio':>8}"
        f"{'p50 ms':>9}{'p50 ms':>9}{'CPU ms':>9}"
    )
    for name in arguments.targets:
        with TemporaryDirectory() as folder, SERVERS[name](Path(folder)) as scp:
            measure(scp, template, arguments.associations, arguments.count, arguments.repeat)


if __name__ == "__main__":
    main()

"""STOW, metadata and QIDO beside Orthanc, in one run on one machine.

    python benchmarks/dicomweb.py                   # 600 CT instances, both servers
    python benchmarks/dicomweb.py --growth 100000   # does our rate keep up?

The client is a few threads that write prepared buffers to raw sockets: it shares the cores with the
server, so it must cost little. Rates are noisy; the ratios of one run are what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from corpus import BOUNDARY, Template, ct_template, request_buffers, uid
from servers import Server, orthanc, ours

SEND_WINDOW = 1 << 20  # bytes handed to one sendmsg call
IOV_MAX = 1000
GROWTH_TURNS = 8


class StowConnection:
    """One kept-alive connection that stores instances."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._path = parts.path + "/studies"
        self._host = f"{parts.hostname}:{parts.port}"
        self._socket = socket.create_connection((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")

    def store(self, buffers: list[bytes]) -> tuple[int, bytes]:
        """Send one request; the status and the body of the answer."""
        length = sum(map(len, buffers))
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\n"
            'Content-Type: multipart/related; type="application/dicom"; '
            f"boundary={BOUNDARY.decode()}\r\n"
            f"Accept: application/dicom+json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()
        self._send([head, *buffers])
        status = int(self._reader.readline().split()[1])
        size, chunked = 0, False
        while (line := self._reader.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
            chunked |= name.lower() == b"transfer-encoding"
        assert not chunked, "this client reads answers with Content-Length"
        return status, self._reader.read(size)

    def close(self) -> None:
        """Hang up."""
        self._reader.close()
        self._socket.close()

    def _send(self, buffers: Sequence[bytes]) -> None:
        pending = [memoryview(b) for b in buffers]
        first = 0
        while first < len(pending):
            sent = self._socket.sendmsg(pending[first : first + IOV_MAX])
            while sent:
                if sent >= len(pending[first]):
                    sent -= len(pending[first])
                    first += 1
                else:
                    pending[first] = pending[first][sent:]
                    sent = 0


def store_many(
    base_url: str,
    template: Template,
    numbers: Sequence[tuple[int, int, int]],
    *,
    connections: int,
    per_request: int,
) -> float:
    """Store instances over several connections; the seconds it took. Fails if one is not stored."""
    requests = [numbers[i : i + per_request] for i in range(0, len(numbers), per_request)]
    failures: list[str] = []
    lock = threading.Lock()
    queue = iter(requests)

    def work() -> None:
        connection = StowConnection(base_url)
        while True:
            with lock:
                batch = next(queue, None)
            if batch is None or failures:
                break
            status, body = connection.store(request_buffers(template, batch))
            if status != 200:
                failures.append(f"{status} {body[:500]!r}")
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    if failures:
        raise SystemExit(f"not stored: {failures[0]}")
    return elapsed


def get(url: str, accept: str = "application/dicom+json") -> tuple[float, bytes]:
    """Seconds until the last byte of an answer, and its body."""
    request = urllib.request.Request(url, headers={"Accept": accept})
    began = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        body = answer.read()
    return time.perf_counter() - began, body


def measure(server: Server, template: Template, count: int, connections: int) -> dict[str, float]:
    """One server's figures."""
    figures: dict[str, float] = {"idle RSS MiB": server.rss_mib()}
    for study, per_request in ((1, 1), (2, 20), (3, 20), (4, 1)):
        numbers = [(study, 1, n) for n in range(count)]
        cpu = server.cpu_seconds()
        seconds = store_many(
            server.base_url, template, numbers, connections=connections, per_request=per_request
        )
        label = f"STOW {connections} connections x {per_request}"
        rate = count / seconds
        cost = (server.cpu_seconds() - cpu) / count * 1000
        if f"{label}: rate /s" not in figures or rate > figures[f"{label}: rate /s"]:
            figures[f"{label}: rate /s"] = rate
            figures[f"{label}: CPU ms/instance"] = cost
    study_uid = uid(2, 0, 0).decode()
    for label, path in (("metadata s", "metadata"), ("instances s", "instances")):
        times = []
        for _ in range(5):
            seconds, body = get(f"{server.base_url}/studies/{study_uid}/{path}")
            found = len(json.loads(body))
            assert found == count, f"{server.name} answered {found} of {count} at {path}"
            times.append(seconds)
        figures[f"first {label}"] = times[0]
        figures[label] = statistics.median(times)
    figures["loaded RSS MiB"] = server.rss_mib()
    return figures


def compare(count: int, connections: int, folder: Path) -> None:
    """Both servers one after the other, and the ratios."""
    template = ct_template()
    print(f"{count} CT instances of {template.size} bytes, {connections} connections")
    results = {}
    for start in (orthanc, ours):
        with start(folder) as server:
            results[server.name] = measure(server, template, count, connections)
    theirs, mine = results.values()
    print(f"{'':34}{'Orthanc':>12}{'ours':>12}{'ratio':>9}")
    for label in theirs:
        ratio = mine[label] / theirs[label] if theirs[label] else float("nan")
        print(f"{label:34}{theirs[label]:12.4g}{mine[label]:12.4g}{ratio:9.3g}")


def growth(total: int, connections: int, folder: Path) -> None:
    """Our rate with `total` instances (1,000 a study) beside that of an empty server.

    The two are measured in turns, a thousand instances at a time, since the machine is not always
    as fast as it was when the large one was empty.
    """
    template = ct_template()

    def thousand(server: Server, study: int) -> float:
        numbers = [(study, n // 100, n) for n in range(1000)]
        seconds = store_many(
            server.base_url, template, numbers, connections=connections, per_request=20
        )
        return 1000 / seconds

    with ours(folder / "large") as large, ours(folder / "empty") as empty:
        for number in range(total // 1000):
            rate = thousand(large, 10 + number)
            if number % 10 == 9:
                print(f"{(number + 1) * 1000:8d} instances: {rate:7.1f}/s", flush=True)
        os.sync()  # the disk is to be done with the large one's objects before the turns
        rates: dict[str, list[float]] = {"empty": [], "large": []}
        cpu = {"empty": -empty.cpu_seconds(), "large": -large.cpu_seconds()}
        for turn in range(GROWTH_TURNS):
            rates["empty"].append(thousand(empty, 10 + turn))
            rates["large"].append(thousand(large, 10 + total // 1000 + turn))
        for server, name in ((empty, "empty"), (large, "large")):
            spent = (cpu[name] + server.cpu_seconds()) / GROWTH_TURNS
            print(f"{name:6} CPU {spent:.3f} ms/instance")
        for name, found in rates.items():
            print(f"{name:6}" + "".join(f"{rate:8.1f}" for rate in found))
        medians = {name: statistics.median(found) for name, found in rates.items()}
        ratio = medians["large"] / medians["empty"]
        print(f"medians: empty {medians['empty']:.1f}/s, with {total} {medians['large']:.1f}/s")
        print(f"ratio {ratio:.3f}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--growth", type=int, metavar="TOTAL")
    parser.add_argument("--folder", type=Path, help="where data goes (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="benchmark-") as folder:
        if options.growth:
            growth(options.growth, options.connections, Path(folder))
        else:
            compare(options.count, options.connections, Path(folder))


if __name__ == "__main__":
    main()

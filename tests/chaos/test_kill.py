"""kill -9 at random moments during ingest: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from forwarding_site import forwarding_site
from instances import multipart, with_uids
from platform_process import Platform

ROUNDS = 12
SENDERS = 4
PER_REQUEST = 5
ROOT = "1.2.826.0.1.3680043.8.498.77"
DELIVERY_TIMEOUT = 180.0  # seconds; a delivery in hand when the process died waits for its lease


class Sender(threading.Thread):
    """Stores instances one request after the other, and remembers what was acknowledged."""

    def __init__(self, number: int, platform: Platform, source: Path) -> None:
        super().__init__()
        self.acknowledged: dict[str, bytes] = {}
        self.sent = 0
        self._number = number
        self._platform = platform
        self._source = source
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._store_some()
            except (OSError, http.client.HTTPException):
                self._stopping.wait(0.02)  # the server was killed; it comes back on the same port

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _store_some(self) -> None:
        study = f"{ROOT}.{self._number}.{self.sent // 25}"
        batch = {
            f"{study}.1.{n}": with_uids(self._source, study, f"{study}.1", f"{study}.1.{n}")
            for n in range(self.sent, self.sent + PER_REQUEST)
        }
        body, content_type = multipart(list(batch.values()))
        self.sent += PER_REQUEST
        connection = http.client.HTTPConnection("127.0.0.1", self._platform.port, timeout=30)
        try:
            connection.request(
                "POST", "/dicom-web/studies", body, headers={"Content-Type": content_type}
            )
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 503:  # it has been started again and is not ready yet
                self._stopping.wait(0.02)
                return
            stored = json.loads(text)
            for item in stored["00081199"]["Value"]:
                sop = item["00081155"]["Value"][0]
                self.acknowledged[sop] = batch[sop]
        finally:
            connection.close()


def fetch(dicomweb: str, sop: str) -> bytes:
    """An instance as stored; the UIDs tell the path."""
    series = sop.rsplit(".", 1)[0]
    study = series.rsplit(".", 1)[0]
    request = urllib.request.Request(
        f"{dicomweb}/studies/{study}/series/{series}/instances/{sop}",
        headers={"Accept": "application/dicom; transfer-syntax=*"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def every_instance(dicomweb: str) -> list[str]:
    """The SOP Instance UIDs QIDO finds, page by page."""
    found: list[str] = []
    while True:
        url = f"{dicomweb}/instances?limit=500&offset={len(found)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            if answer.status == 204:
                return found
            found += [item["00080018"]["Value"][0] for item in json.load(answer)]


def await_true(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Poll another process until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:.0f} s"
        time.sleep(0.2)


def test_every_acknowledged_instance_survives_kills_and_reaches_the_binding(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    target = Platform(tmp_path / "target").start()
    source = Platform(
        tmp_path / "source", site=forwarding_site(f"{target.dicomweb}/studies")
    ).start()
    senders = [Sender(n, source, dicom_file("CT_small.dcm")) for n in range(SENDERS)]
    try:
        for sender in senders:
            sender.start()
        for _ in range(ROUNDS):
            time.sleep(chance.uniform(0.05, 1.2))  # the random moment
            source.kill()
            source.start()
        for sender in senders:
            sender.stop()
        acknowledged = {k: v for sender in senders for k, v in sender.acknowledged.items()}
        assert len(acknowledged) >= ROUNDS, "the senders got something through"

        found = Counter(every_instance(source.dicomweb))
        assert [uid for uid, times in found.items() if times > 1] == []
        assert set(acknowledged) <= set(found)
        for sop, sent in acknowledged.items():
            assert fetch(source.dicomweb, sop) == sent
        # What was stored but not acknowledged is whole as well: half an instance is never visible.
        whole = {s: s for s in found if s not in acknowledged}
        for sop in whole:
            assert fetch(source.dicomweb, sop)[128:132] == b"DICM"

        await_true(
            lambda: set(every_instance(target.dicomweb)) >= set(found),
            DELIVERY_TIMEOUT,
            "every instance reaches the binding",
        )
        for sop, sent in acknowledged.items():
            assert fetch(target.dicomweb, sop) == sent
        assert set(Counter(every_instance(target.dicomweb)).values()) == {1}
    except BaseException:
        print(source.log.read_text()[-4000:])
        raise
    finally:
        for sender in senders:
            sender.stop()
        source.stop()
        target.stop()


def test_sigterm_ends_with_exit_code_0(tmp_path: Path) -> None:
    platform = Platform(tmp_path).start()
    assert platform.stop() == 0, platform.log.read_text()

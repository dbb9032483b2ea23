"""kill -9 at random moments during C-STORE: nothing that was answered with success is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from dimse_site import CT, Sent, store
from platform_process import Platform
from up_dimse import call, instance, instances_in, stored

from imaging_ingestion.association.error import AssociationError

ROUNDS = 6
SENDERS = 4
ROOT = "1.2.826.0.1.3680043.8.498.78"


class Sender:
    """Stores instances of a study one after the other, and remembers what was acknowledged."""

    def __init__(self, number: int, platform: Platform, source: Path) -> None:
        self.study = f"{ROOT}.{number}"
        self.acknowledged: dict[str, bytes] = {}
        self.sent = 0
        self._platform = platform
        self._source = source

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                association = await call(self._platform.dimse_port, CT)
                while True:
                    sent = self._next()
                    if (await store(association, sent)).status == 0:
                        self.acknowledged[sent.sop_instance] = sent.data_set
            except AssociationError:
                await asyncio.sleep(0.02)  # it was killed; it comes back on the same port

    def _next(self) -> Sent:
        self.sent += 1
        _, sent = instance(self._source, self.study, self.sent)
        return sent


async def test_every_instance_that_was_answered_with_success_survives_kills(
    tmp_path: Path, dicom_file: Callable[[str], Path]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    platform = Platform(tmp_path)
    await asyncio.to_thread(platform.start)
    senders = [Sender(number, platform, dicom_file("CT_small.dcm")) for number in range(SENDERS)]
    tasks = [asyncio.create_task(sender.run()) for sender in senders]
    try:
        for _ in range(ROUNDS):
            await asyncio.sleep(chance.uniform(0.05, 1.2))  # the random moment
            platform.kill()
            await asyncio.to_thread(platform.start)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for sender in senders:
            assert len(sender.acknowledged) >= ROUNDS, "it got something through"
            found = instances_in(platform.dicomweb, sender.study)
            assert set(sender.acknowledged) <= found
            for sop in found:  # what was not acknowledged is whole, too, or not there
                content = stored(platform.dicomweb, sender.study, sop)
                assert content == sender.acknowledged.get(sop, content)
            incoming = platform.data / "spaces/default/.incoming"
        assert await asyncio.to_thread(platform.stop) == 0
        assert list(incoming.iterdir()) == []
    except BaseException:
        print(platform.log.read_text()[-4000:])
        raise
    finally:
        platform.kill()
        for task in tasks:
            task.cancel()

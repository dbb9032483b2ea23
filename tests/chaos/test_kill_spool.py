"""kill -9 of a proxy that keeps instances: what it answered with success arrives, in order."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path

import psutil
from nats_servers import NatsServer, nats
from proxy_process import ProxyProcess, proxy_process
from spool_proxies import Made, arrived, is_empty, scanner, send, spooling
from storage_peers import Collector, destination
from tunnel_proxies import Behind, eventually, new_root, running_proxy

from imaging_ingestion.association.error import AssociationError

__all__ = ["nats"]

ROUNDS = 4
STUDIES = 3


async def test_what_was_answered_with_success_arrives_though_the_proxy_is_killed(
    nats: NatsServer, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    target = Collector()
    root = new_root()
    acknowledged: list[Made] = []
    folder = tmp_path / "spool"
    values = {
        "DIMSE_NATS_URL": nats.address,
        "DIMSE_NATS_SUBJECT_ROOT": root,
        **spooling(folder),
    }

    async def store(proxy: ProxyProcess, study: int, first: int) -> None:
        """Until the proxy is gone."""
        with suppress(AssociationError):
            async with scanner(proxy.port) as association:
                for number in range(first, first + 1000):
                    one = Made(study, number, 20_000)
                    if (await send(association, one)).status == 0:
                        acknowledged.append(one)

    async with (
        destination(target, "TARGET") as (where, _),
        running_proxy(nats.address, "B", root, **Behind(where.port).values()),
    ):
        for round_ in range(ROUNDS):
            context = proxy_process(tmp_path, **values)
            proxy = await asyncio.to_thread(context.__enter__)
            first = round_ * 1000
            tasks = [asyncio.create_task(store(proxy, study, first)) for study in range(STUDIES)]
            before = len(acknowledged)
            wanted = before + chance.randrange(20, 200)
            await eventually(lambda wanted=wanted: len(acknowledged) >= wanted)
            worker = proxy.worker
            worker.kill()
            await asyncio.gather(*tasks)
            await asyncio.to_thread(context.__exit__, None, None, None)
            await asyncio.to_thread(psutil.wait_procs, [worker])
        with proxy_process(tmp_path, **values):
            await eventually(lambda: is_empty(folder))
    came = arrived(target)
    for one in acknowledged:
        assert came[one.uid] == one.data_set, one.uid
    firsts = list(dict.fromkeys(target.uids))
    for study in range(STUDIES):
        uids = {one.uid for one in acknowledged if one.study == study}
        in_order = [one.uid for one in acknowledged if one.study == study]
        assert [uid for uid in firsts if uid in uids] == in_order

"""`run`: one component alone, as in a container."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ingestion.cli.guardian import run_guarded

if TYPE_CHECKING:
    # What the proxy needs is imported in the process that is it; the one that watches it is small.
    from imaging_ingestion.tunnel.settings import ProxySettings


def run_proxy(
    files: Sequence[Path], http_host: str, http_port: int, *, log_json: bool = False
) -> None:
    """Run a DIMSE proxy until SIGINT or SIGTERM; exit code 2 if it cannot be run."""
    process_id = os.urandom(16)

    def work(alive: int) -> int:
        return _work(files, http_host, http_port, process_id, alive, log_json=log_json)

    # By its name, for it imports what this process does without.
    obituary = [sys.executable, "-m", "imaging_ingestion.cli.obituary", process_id.hex()]
    run_guarded(work, [*obituary, *map(str, files)])


def proxy_values(files: Sequence[Path], environment: Mapping[str, str]) -> dict[str, str]:
    """What the environment says, and a DimseProxy of the files before it. Raises SettingsError."""
    values = {name: value for name, value in environment.items() if name.startswith("DIMSE_")}
    return values | _declared(files) if files else values


def _work(
    files: Sequence[Path],
    http_host: str,
    http_port: int,
    process_id: bytes,
    alive: int,
    *,
    log_json: bool,
) -> int:
    import asyncio

    from imaging_ingestion.association.tls import TlsError
    from imaging_ingestion.cli.process import configure_logging, loop_factory
    from imaging_ingestion.tunnel.error import SettingsError
    from imaging_ingestion.tunnel.settings import proxy_settings

    configure_logging(as_json=log_json)
    try:
        settings = proxy_settings(proxy_values(files, os.environ))
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(settings, http_host, http_port, process_id, alive))
    except SettingsError as error:
        print("The proxy cannot be run:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
    except (OSError, TlsError) as error:
        print(f"The proxy cannot be run: {error}", file=sys.stderr)
    return 2


async def _serve(
    settings: ProxySettings, http_host: str, http_port: int, process_id: bytes, alive: int
) -> int:
    import asyncio

    from prometheus_client import CollectorRegistry
    from prometheus_client.process_collector import ProcessCollector

    from imaging_ingestion.cli.health import HealthServer
    from imaging_ingestion.tunnel.metrics import TunnelMetrics
    from imaging_ingestion.tunnel.proxy import Proxy

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    proxy = Proxy(settings, TunnelMetrics(registry), process_id=process_id)
    health = HealthServer(proxy.why_not_ready, registry)
    stop, orphaned = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def parent_died() -> None:
        loop.remove_reader(alive)
        orphaned.set()
        stop.set()

    loop.add_reader(alive, parent_died)
    await health.start(http_host, http_port)
    try:
        await proxy.start()
        target = settings.target
        where = (
            "nowhere" if target is None else f"{target.ae_title or '*'}@{target.host}:{target.port}"
        )
        print(f"imaging-ingestion proxy {settings.ae_title or '*'}@{settings.host}:{proxy.port}")
        print(f"  channel  {settings.subjects.root}.{settings.subjects.channel}")
        print(f"  target   {where}")
        print(f"  health   http://{http_host}:{health.port}/healthz/ready", flush=True)
        await stop.wait()
        if not orphaned.is_set():
            orphan = asyncio.ensure_future(orphaned.wait())
            stopped = asyncio.ensure_future(proxy.stop())
            await asyncio.wait({orphan, stopped}, return_when=asyncio.FIRST_COMPLETED)
            orphan.cancel()
            if stopped.done():
                await stopped
                return 0
            stopped.cancel()
        await proxy.end("the process that watches the proxy was killed")
        return 1
    finally:
        await health.stop()


def _declared(files: Sequence[Path]) -> dict[str, str]:
    """What the one DimseProxy of the files says. Raises SettingsError."""
    from imaging_ingestion.resources.models import DimseProxy, Secret
    from imaging_ingestion.resources.plan_tunnel import proxy_plan
    from imaging_ingestion.resources.site_file import SiteError, read_site
    from imaging_ingestion.tunnel.error import SettingsError

    try:
        site = read_site(files)
    except SiteError as error:
        raise SettingsError(error.problems) from error
    found = site.of(DimseProxy)
    if len(found) != 1:
        names = ", ".join(proxy.name for proxy, _ in found) or "none"
        raise SettingsError([f"one DimseProxy was expected in the files, found: {names}"])
    proxy, place = found[0]
    secret = proxy.spec.natsTokenSecret
    if secret is not None and site.find(Secret, secret) is None:
        # A Secret that is not in the files is the environment's to give, as on Kubernetes.
        spec = proxy.spec.model_copy(update={"natsTokenSecret": None})
        proxy = proxy.model_copy(update={"spec": spec})
    problems: list[str] = []
    plan = proxy_plan(site, proxy, place, problems)
    if problems:
        raise SettingsError(problems)
    return {name: value.get_secret_value() for name, value in plan.values.items()}

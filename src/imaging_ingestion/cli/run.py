"""`run`: one component alone, as in a container."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imaging_ingestion.cli.guardian import run_guarded

if TYPE_CHECKING:
    # What the proxy needs is imported in the process that is it; the one that watches it is small.
    import socket

    from imaging_ingestion.cli.supervisor import Line
    from imaging_ingestion.tunnel.settings import ProxySettings
    from imaging_ingestion.workers.colleagues import Colleague
    from imaging_ingestion.workers.turns import Entrance


def run_proxy(
    files: Sequence[Path],
    http_host: str,
    http_port: int,
    *,
    workers: int = 1,
    log_json: bool = False,
) -> None:
    """Run a DIMSE proxy until SIGINT or SIGTERM; exit code 2 if it cannot be run.

    With several `workers` this process watches them.
    """
    if workers > 1:
        raise SystemExit(_supervise(files, http_host, http_port, workers, log_json=log_json))
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
    from imaging_ingestion.cli.process import configure_logging
    from imaging_ingestion.cli.proxy_process import ProxyProcess, exit_code, run

    configure_logging(as_json=log_json)

    def serve() -> int:
        process = ProxyProcess(_settings(files), process_id, alive)
        return run(process.serve(http_host, http_port))

    return exit_code(serve)


def _supervise(
    files: Sequence[Path], http_host: str, http_port: int, workers: int, *, log_json: bool
) -> int:
    from imaging_ingestion.cli.process import configure_logging
    from imaging_ingestion.cli.proxy_process import ProxyProcess, exit_code, run
    from imaging_ingestion.cli.run_workers import ProxyWorkers

    configure_logging(as_json=log_json)

    def supervise() -> int:
        settings = _settings(files)

        def serve(
            number: int,
            process_id: bytes,
            line: Line,
            entrance: Entrance,
            pages: socket.socket,
            colleague: Colleague,
        ) -> int:
            configure_logging(as_json=log_json, worker=number)

            def work() -> int:
                process = ProxyProcess(settings, process_id, line.alive, line.ready)
                return run(process.share(http_host, pages, entrance, colleague))

            return exit_code(work)

        return ProxyWorkers(files, serve).supervise(settings, http_host, http_port, workers)

    return exit_code(supervise)


def _settings(files: Sequence[Path]) -> ProxySettings:
    """Raises SettingsError."""
    from imaging_ingestion.tunnel.settings import proxy_settings

    return proxy_settings(proxy_values(files, os.environ))


def _declared(files: Sequence[Path]) -> dict[str, str]:
    """What the one DimseProxy of the files says. Raises SettingsError."""
    from imaging_ingestion.nats_client.settings import SettingsError
    from imaging_ingestion.resources.models import DimseProxy, Secret
    from imaging_ingestion.resources.plan_tunnel import proxy_plan
    from imaging_ingestion.resources.site_file import SiteError, read_site

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

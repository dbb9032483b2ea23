"""`demo`: the whole flow with a sample study, on embedded defaults, to look at and to click.

The site is `sample/site.yaml`, run as `up` would run it, beside a FHIR receiver. With CI=true it
ends by itself, and its exit code says whether all of it happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import aiohttp
from rich.console import Console

from imaging_ingestion.cli.demo_flow import Flow, Sample
from imaging_ingestion.cli.fhir_receiver import ROOT as FHIR_ROOT
from imaging_ingestion.cli.fhir_receiver import create_fhir_receiver
from imaging_ingestion.cli.process import configure_logging, loop_factory
from imaging_ingestion.cli.terminal import console, plain
from imaging_ingestion.cli.up import in_words
from imaging_ingestion.http_server import HttpServer
from imaging_ingestion.resources.plan import FhirPlan, SitePlan
from imaging_ingestion.resources.planner import runnable, with_dimse_port
from imaging_ingestion.resources.site_file import SiteError, read_site
from imaging_ingestion.site import RunningSite, running_site

SAMPLE = Path(__file__).parent / "sample"
SITE_FILE = SAMPLE / "site.yaml"
_HOST = "127.0.0.1"
_FHIR_PORT = 8081  # as the site file has it


def run(data: Path | None, http_port: int, dimse_port: int) -> None:
    """Show it, until Ctrl-C. With CI=true exit code 1 if any of it did not happen."""
    configure_logging(level=logging.WARNING)
    shown = console()
    stays = os.environ.get("CI", "").lower() not in {"true", "1"}
    with ExitStack() as stack:
        folder = data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="imaging-ingestion-demo-"))
        )
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                missing: Sequence[str] = runner.run(
                    _demonstrate(shown, folder, http_port, dimse_port, stays=stays)
                )
        except SiteError as error:
            missing = list(error.problems)
            _tell(missing, shown)
        except OSError as error:
            missing = [in_words(error)]
            _tell(missing, shown)
    if missing:
        raise SystemExit(1)


def _tell(missing: Sequence[str], shown: Console) -> None:
    for sentence in missing:
        shown.print(f"did not happen: {plain(sentence)}", style="red")


async def _demonstrate(
    shown: Console, folder: Path, http_port: int, dimse_port: int, *, stays: bool
) -> Sequence[str]:
    """Run it all; what did not happen, once told. Raises SiteError, OSError if it cannot begin."""
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        receiver = HttpServer(create_fhir_receiver(), _HOST, _port(_FHIR_PORT, shown))
        await receiver.start()
        stack.push_async_callback(receiver.stop)
        fhir = f"http://{_HOST}:{receiver.port}{FHIR_ROOT}"
        plan = with_dimse_port(runnable(read_site([SITE_FILE])), _port(dimse_port, shown))
        plan = with_fhir_at(plan, fhir)
        site = await stack.enter_async_context(
            running_site(plan, data=folder, host=_HOST, http_port=_port(http_port, shown))
        )
        delay = plan.cores[0].revisioning_delay.total_seconds()
        _introduce(shown, site, fhir, folder, delay)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        flow = Flow(shown, session, site, fhir, delay)
        flowing = asyncio.create_task(flow.run(Sample.read(SAMPLE / "study")))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({flowing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not flowing.done():
            flowing.cancel()
            await asyncio.wait({flowing})
            return []
        missing = flowing.result()
        _tell(missing, shown)
        if stays:
            shown.print("\nThe servers go on until Ctrl-C.")
            await stopped
        stopped.cancel()
        return missing


def with_fhir_at(plan: SitePlan, url: str) -> SitePlan:
    """The plan with its FHIR bindings led to another server."""
    cores = []
    for core in plan.cores:
        bindings = [
            dataclasses.replace(binding, endpoint=url) if isinstance(binding, FhirPlan) else binding
            for binding in core.bindings
        ]
        cores.append(dataclasses.replace(core, bindings=tuple(bindings)))
    return SitePlan(tuple(cores))


def _introduce(shown: Console, site: RunningSite, fhir: str, folder: Path, delay: float) -> None:
    shown.rule("imaging-ingestion")
    shown.print(f"platform       {site.base_url}")
    shown.print(f"DIMSE          {site.dimse[0]}")
    shown.print(f"FHIR receiver  {fhir}")
    shown.print(f"site file      {SITE_FILE}")
    shown.print(f"data           {folder.resolve()}")
    shown.print(f"Here {delay:g} seconds of quiet settle a study; 30 is the default.\n")


def _port(wanted: int, shown: Console) -> int:
    """The port if it is free, else 0: any that is."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((_HOST, wanted))
        except OSError as error:
            shown.print(f"port {wanted}: {in_words(error)}; another one is taken")
            return 0
    return wanted

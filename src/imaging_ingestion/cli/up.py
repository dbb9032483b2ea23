"""`up`: run a site."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from imaging_ingestion.cli.process import configure_logging, loop_factory
from imaging_ingestion.cli.terminal import plain
from imaging_ingestion.resources.plan import DIMSE_PORT, SitePlan
from imaging_ingestion.resources.planner import built_in_plan, runnable, with_dimse_port
from imaging_ingestion.resources.site_file import SiteError, read_site

if TYPE_CHECKING:
    from imaging_ingestion.site import RunningSite

log = structlog.get_logger(__name__)

#: Open files that are enough: 600 associations of a DIMSE service and 200 connections without one,
#: an object for each that stores, as many HTTP requests, databases, bindings.
ENOUGH_FILES: Final = 4096


def run(
    files: Sequence[Path],
    data: Path,
    host: str,
    http_port: int,
    dimse_port: int | None,
    *,
    workers: int = 1,
    log_json: bool = False,
) -> None:
    """Run until SIGINT or SIGTERM; exit code 2 if the site cannot be run.

    `dimse_port` is for the one DIMSE service of the site; None: as the site says. `workers` are
    processes; with more than one, this process watches them.
    """
    configure_logging(as_json=log_json)
    ended = 0

    def serve() -> None:
        nonlocal ended
        plan = plan_of(files, dimse_port)
        if workers == 1:
            _serve(plan, data, host, http_port)
        else:
            ended = _supervise(plan, data, host, http_port, workers, log_json=log_json)

    raise SystemExit(_exit_code(serve) or ended)


def _exit_code(serve: Callable[[], None]) -> int:
    """0, or 2 if the site cannot be run: why is said on standard error."""
    try:
        serve()
    except SiteError as error:
        print("The site cannot be run:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {plain(problem)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"imaging-ingestion: {plain(in_words(error))}", file=sys.stderr)
        return 2
    return 0


def in_words(error: OSError) -> str:
    """An operating system's error for people."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def plan_of(files: Sequence[Path], dimse_port: int | None) -> SitePlan:
    """What is to be run: the files' resources, or the built-in site. Raises SiteError."""
    if not files:
        sink = os.environ.get("K_SINK")
        return built_in_plan(DIMSE_PORT if dimse_port is None else dimse_port, sink=sink)
    plan = runnable(read_site(files))
    return plan if dimse_port is None else with_dimse_port(plan, dimse_port)


def _serve(plan: SitePlan, data: Path, host: str, http_port: int) -> None:
    # Late, so that a mistake in a site file is told at once.
    from imaging_ingestion.site import run_site

    def ready(site: RunningSite) -> None:
        print(_words(plan, data, site), flush=True)

    tune_interpreter()
    raise_file_limit()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_site(plan, data=data, host=host, http_port=http_port, ready=ready))


def _supervise(
    plan: SitePlan, data: Path, host: str, http_port: int, workers: int, *, log_json: bool
) -> int:
    from imaging_ingestion.cli.up_workers import Workers, share

    raise_file_limit()
    shared = share(plan, data, host, http_port, workers)

    def run(serve: Callable[[], None]) -> int:
        tune_interpreter()
        return _exit_code(serve)

    words = partial(_words, plan, data)
    return Workers(plan, data, host, shared, run, words, log_json=log_json).supervise(workers)


def _words(plan: SitePlan, data: Path, site: RunningSite) -> str:
    """Where the site answers, for people."""
    lines = [
        f"imaging-ingestion is ready at {site.base_url}",
        f"  DICOMweb  {site.base_url}/dicom-web",
    ]
    for core in plan.cores:
        for space in core.spaces:
            lines.append(f"            {site.base_url}/spaces/{space.name}/dicom-web")
    for number, entity in enumerate(site.dimse):
        over = " (TLS)" if entity.tls else ""
        lines.append(f"  {'' if number else 'DIMSE':<9} {entity}{over}")
        if entity.port is not None and entity.subject is not None:
            lines.append(f"            {entity.ae_title} over NATS ({entity.subject})")
    for number, proxy in enumerate(site.proxies):
        lines.append(f"  {'' if number else 'proxy':<9} {proxy.name}: {proxy}")
    lines.append(f"  API       {site.base_url}/api/docs")
    lines.append(f"  data      {data.resolve()}")
    return "\n".join(lines)


def tune_interpreter() -> None:
    """Set the interpreter up for a server whose threads write files while one runs the event loop.

    Measured by benchmarks/dicomweb.py (STOW, 20 instances a request): collecting garbage seldom,
    and never what was there at the start, takes 10 to 15 % off the user time of an instance; a
    thread that comes back from the disk waits 1 ms for the interpreter at most, instead of 5.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.001)


def raise_file_limit() -> None:
    """Let the process open as many files as it may: each connection is one, each object, too.

    The soft limit is 1024 on most machines, for programs of old that cannot handle more; a DIMSE
    service alone takes 600 associations.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (ValueError, OSError) as error:  # macOS has a limit below that of `hard`
        log.debug("up.file_limit_not_raised", error=str(error))
    if soft != resource.RLIM_INFINITY and soft < ENOUGH_FILES:
        log.warning("up.few_files", limit=soft, wanted=ENOUGH_FILES, help="raise `ulimit -n`")

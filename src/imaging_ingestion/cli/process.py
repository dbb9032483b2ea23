"""What a process that runs for long sets up for itself."""

from __future__ import annotations

import asyncio
import logging
import sys

import structlog


def configure_logging(
    *, as_json: bool = False, level: int = logging.INFO, worker: int | None = None
) -> None:
    """One line per event on standard error, with keys; none below `level`.

    `worker` is the number of this process among those that do the same.
    """

    def add_worker(
        _logger: object, _method: str, entry: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if worker is not None:
            entry["worker"] = worker
        return entry

    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_worker,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop where it is to be had."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop

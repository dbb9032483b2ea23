"""What the DIMSE commands have in common: an association, and how they end."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn, TypeVar

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.connect import connect
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.incoming import Service
from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer, UsageError
from imaging_ingestion.cli.terminal import plain
from imaging_ingestion.dimse.requestor import Proposal

T = TypeVar("T")


class FailedError(Exception):
    """It did not work; the message says why."""


@asynccontextmanager
async def associated(
    peer: Peer,
    options: DimseOptions,
    proposals: Sequence[Proposal],
    services: Mapping[str, Service] | None = None,
) -> AsyncIterator[Association]:
    """An association, released at the end, or aborted if that is early. Raises AssociationError."""
    association = await connect(
        peer.host,
        peer.port,
        proposals,
        called_ae_title=peer.ae_title,
        calling_ae_title=options.aet,
        services=services,
        settings=options.connect_settings(),
    )
    try:
        yield association
    except BaseException:
        await association.abort()
        raise
    with suppress(AssociationError):  # everything has been answered
        await association.release()


def run(work: Coroutine[Any, Any, T], peer: str) -> T:
    """Run a command to its end. Exits with 1 if it fails, 2 if it makes no sense, 130 on Ctrl-C."""
    silence()
    try:
        return asyncio.run(work)
    except UsageError as error:
        fail(str(error), 2)
    except AssociationError as error:
        fail(f"{peer}: {error}", 1)
    except FailedError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def silence() -> None:
    """No log: what goes wrong is told in one line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def fail(sentence: str, code: int) -> NoReturn:
    """Say why on standard error, and exit."""
    print(plain(sentence), file=sys.stderr)
    raise SystemExit(code)

"""Commands that call an application entity; each is a module of `cli.dimse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from imaging_ingestion.cli.options import (
    Aet,
    Ca,
    Cert,
    Entity,
    Json,
    Key,
    Keys,
    Timeout,
    Tls,
    dimse_options,
)

app = typer.Typer()


@app.command()
def echo(
    to: Entity,
    aet: Aet = "INGESTION",
    timeout: Timeout = 60.0,
    tls: Tls = False,
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    as_json: Json = False,
) -> None:
    """Ask an application entity whether it is there (C-ECHO).

    Exit code 0; 1 if it does not answer, or not well; 2 if what was asked makes no sense.
    """
    from imaging_ingestion.cli.dimse import echo as command

    command.echo(to, dimse_options(aet, timeout, tls, cert, key, ca), as_json=as_json)


@app.command()
def find(
    to: Entity,
    level: Annotated[
        Literal["patient", "study", "series", "image"], typer.Option(help="What to look for.")
    ] = "study",
    keys: Keys = [],  # noqa: B006 - typer makes a new one of it
    limit: Annotated[
        int | None, typer.Option(min=1, help="Results at most; then it cancels.")
    ] = None,
    aet: Aet = "INGESTION",
    timeout: Timeout = 60.0,
    tls: Tls = False,
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    as_json: Json = False,
) -> None:
    """Query an application entity (C-FIND).

    Keys are keywords or tags: `-k PatientName=DOE*`, `-k 0010,0020`, and into sequences
    `-k RequestAttributesSequence.RequestedProcedureID=1`. With --json the results are DICOM JSON.
    Exit code 0, also if nothing is found; 1 if it failed; 2 if what was asked makes no sense.
    """
    from imaging_ingestion.cli.dimse import find as command

    options = dimse_options(aet, timeout, tls, cert, key, ca)
    command.find(to, level, keys, options, limit=limit, as_json=as_json)


@app.command()
def move(
    to: Entity,
    dest: Annotated[
        str, typer.Option(help="AE title to which the instances are sent.", show_default=False)
    ],
    keys: Keys,
    aet: Aet = "INGESTION",
    timeout: Timeout = 60.0,
    tls: Tls = False,
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    as_json: Json = False,
) -> None:
    """Have an application entity send instances to another one (C-MOVE).

    The lowest of the keys PatientID, StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID says
    what is moved; those above it are wanted, too. Exit code 0; 1 if anything failed; 2 if what was
    asked makes no sense.
    """
    from imaging_ingestion.cli.dimse import move as command

    command.move(to, dest, keys, dimse_options(aet, timeout, tls, cert, key, ca), as_json=as_json)


@app.command()
def get(
    to: Entity,
    keys: Keys,
    out: Annotated[Path, typer.Option(help="Folder for the files; made if missing.")] = Path(),
    aet: Aet = "INGESTION",
    timeout: Timeout = 60.0,
    tls: Tls = False,
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    as_json: Json = False,
) -> None:
    """Fetch instances of an application entity into files (C-GET).

    Keys as for `move`. Exit code 0; 1 if anything failed; 2 if what was asked makes no sense.
    """
    from imaging_ingestion.cli.dimse import get as command

    command.get(to, keys, out, dimse_options(aet, timeout, tls, cert, key, ca), as_json=as_json)

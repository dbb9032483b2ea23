"""Commands about what a proxy in mode spool keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaging_ingestion.cli.options import (
    Json,
    Study,
)

app = typer.Typer(help="What a proxy in mode spool keeps.", no_args_is_help=True)

SpoolData = Annotated[
    Path, typer.Option(envvar="DIMSE_SPOOL_DIRECTORY", help="Folder of the spool.")
]


@app.command("status")
def spool_status(data: SpoolData, as_json: Json = False) -> None:
    """Show how much waits to be sent, and of which studies. The proxy may run or not."""
    from imaging_ingestion.cli.spool import show_status

    show_status(data, as_json=as_json)


@app.command("dead")
def spool_dead(data: SpoolData, study: Study = None, as_json: Json = False) -> None:
    """List what the target refused for good, with its answers."""
    from imaging_ingestion.cli.spool import show_dead

    show_dead(data, study=study, as_json=as_json)


@app.command("replay")
def spool_replay(data: SpoolData, study: Study = None) -> None:
    """Send what was refused once more."""
    from imaging_ingestion.cli.spool import replay_dead

    replay_dead(data, study=study)


@app.command("discard")
def spool_discard(
    data: SpoolData,
    study: Study = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: nothing brings them back.")] = False,
) -> None:
    """Delete what was refused."""
    from imaging_ingestion.cli.spool import discard_dead

    discard_dead(data, study=study, is_sure=yes)

"""The command `imaging-ingestion`: one module a command, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="imaging-ingestion",
    help="Medical images in over DICOMweb, searchable, settled into revisions, and passed on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Url = Annotated[str, typer.Option(help="Root URL of a running server.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]


@app.command()
def up(
    file: Annotated[
        list[Path] | None, typer.Option("-f", "--file", help="Site file; may be repeated.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder for everything that is kept.")] = Path("data"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    log_json: Annotated[bool, typer.Option(help="Log lines as JSON.")] = False,
) -> None:
    """Run a site on this machine: the built-in one, or what site files declare."""
    from imaging_ingestion.cli.up import run

    run(file or [], data, host, http_port, log_json=log_json)


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="Files, and folders with all in them.")],
    to: Annotated[str, typer.Option(help="Server root or DICOMweb root to store at.")],
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Connections.")] = 4,
    token: Annotated[str | None, typer.Option(envvar="STOW_AUTH_TOKEN")] = None,
    force: Annotated[bool, typer.Option(help="Send what the server has already, too.")] = False,
    as_json: Json = False,
) -> None:
    """Store DICOM files, found by their content, at a STOW-RS server."""
    from imaging_ingestion.cli.send import run

    run(paths, to, concurrency=concurrency, token=token, force=force, as_json=as_json)


@app.command()
def studies(url: Url = "http://127.0.0.1:8080", as_json: Json = False) -> None:
    """List the studies of a running server."""
    from imaging_ingestion.cli.lists import show_studies

    show_studies(url, as_json=as_json)


@app.command()
def deliveries(
    url: Url = "http://127.0.0.1:8080",
    binding: Annotated[str | None, typer.Option(help="Only of this binding.")] = None,
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead.")] = None,
    as_json: Json = False,
) -> None:
    """Show the delivery ledger of a running server."""
    from imaging_ingestion.cli.lists import show_deliveries

    show_deliveries(url, binding=binding, state=state, as_json=as_json)


@app.command()
def replay(
    url: Url = "http://127.0.0.1:8080",
    binding: Annotated[str | None, typer.Option(help="Only of this binding.")] = None,
    state: Annotated[
        str, typer.Option(help="dead, delivered, pending, or any for all of them.")
    ] = "dead",
    study: Annotated[str | None, typer.Option(help="Only of this Study Instance UID.")] = None,
    as_json: Json = False,
) -> None:
    """Drive deliveries again: dead letters, unless told otherwise."""
    from imaging_ingestion.cli.lists import replay_deliveries

    replay_deliveries(url, binding=binding, state=state, study=study, as_json=as_json)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Folder to keep data in; a temporary one otherwise.")
    ] = None,
    http_port: Annotated[int, typer.Option(help="Taken if it is free.")] = 8080,
) -> None:
    """Show the whole flow with a sample study: in, searchable, settled, FHIR, forwarded."""
    from imaging_ingestion.cli.demo import run

    run(data, http_port)


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()

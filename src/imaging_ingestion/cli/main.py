"""The command `imaging-ingestion`: one module a command, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from imaging_ingestion.cli import call_commands, server_commands, spool_commands
from imaging_ingestion.cli.options import (
    Aet,
    Ca,
    Cert,
    Json,
    Key,
    Timeout,
    Tls,
    dimse_options,
)

app = typer.Typer(
    name="imaging-ingestion",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs flow
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(call_commands.app)
app.add_typer(server_commands.app)
app.add_typer(spool_commands.app, name="spool")


def _version(wanted: bool) -> None:
    if wanted:
        from imaging_ingestion import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Medical images in (DICOMweb, DIMSE), searchable, settled into revisions, and passed on."""


@app.command()
def up(
    file: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", help="Site file (YAML); may be repeated.", show_default=False),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder for everything that is kept; made if missing.")
    ] = Path("data"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    dimse_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of the site's one DIMSE service; 0 takes a free one. 11112, or what the "
            "site file says, if left out.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the work, on the same ports.")
    ] = 1,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log lines as JSON, on standard error.")
    ] = False,
) -> None:
    """Run a site on this machine: what site files declare, else the built-in one.

    The built-in site is one space named default, with SQLite and a local folder, which answers
    DICOMweb, and DIMSE as INGESTION. Ctrl-C or SIGTERM stops it: what is in hand is finished first.
    Exit code 0; 2 if the site cannot be run.
    """
    from imaging_ingestion.cli.up import run

    run(file or [], data, host, http_port, dimse_port, workers=workers, log_json=log_json)


run = typer.Typer(help="Run one component alone, as in a container.", no_args_is_help=True)
app.add_typer(run, name="run")


@run.command("proxy")
def run_proxy(
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "-f",
            "--file",
            help="File with a DimseProxy (YAML); what it leaves out is the environment's.",
            show_default=False,
        ),
    ] = None,
    http_host: Annotated[
        str, typer.Option(envvar="HTTP_HOST", help="Address of /healthz and /metrics.")
    ] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="HTTP_PORT", help="Its port; 0: a free one.")
    ] = 8080,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the work, on the same ports.")
    ] = 1,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log lines as JSON, on standard error.")
    ] = False,
) -> None:
    """Carry associations between this network and another one, over NATS.

    Local peers call it as if it were the application entity of the other side; calls of the other
    side go to DIMSE_TARGET_HOST. Its settings are environment variables, DIMSE_NATS_URL at least:
    see docs/tunnel.md. SIGTERM stops it: what is under way is finished first. Exit code 0; 2 if it
    cannot be run.
    """
    from imaging_ingestion.cli.run import run_proxy as command

    command(file or [], http_host, http_port, workers=workers, log_json=log_json)


@app.command()
def send(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files, and folders with all in them.")
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Server root (http://HOST:PORT), or the root of any DICOMweb server; or an "
            "application entity.",
            metavar="URL|AE@HOST:PORT",
            show_default=False,
        ),
    ],
    concurrency: Annotated[
        int, typer.Option(min=1, max=64, help="Requests, or associations, side by side.")
    ] = 4,
    token: Annotated[
        str | None,
        typer.Option(envvar="STOW_AUTH_TOKEN", help="Bearer token.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Send what the server has already, too.")
    ] = False,
    aet: Aet = "INGESTION",
    timeout: Timeout = 60.0,
    tls: Tls = False,
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    as_json: Json = False,
) -> None:
    """Store DICOM files, found by their content, at a STOW-RS server or by C-STORE.

    Every file is told of: stored, already there, failed, or not DICOM. Exit code 0; 1 if any file
    failed or no server answers; 2 if what was asked makes no sense.
    """
    from imaging_ingestion.cli.send import run

    dimse = dimse_options(aet, timeout, tls, cert, key, ca)
    run(paths, to, concurrency=concurrency, token=token, force=force, as_json=as_json, dimse=dimse)


SiteFile = Annotated[
    list[Path] | None,
    typer.Option("-f", "--file", help="Site file (YAML); may be repeated.", show_default=False),
]
Grace = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Objects younger than that are left out: a running site may be recording them. 0 "
        "where no site is running.",
    ),
]


@app.command()
def check(
    file: SiteFile = None,
    data: Annotated[Path, typer.Option(help="Folder of the site's data.")] = Path("data"),
    space: Annotated[str | None, typer.Option(help="Only this storage space.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every object and compare its SHA-256.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Repair what can be without any loss; each line says how."),
    ] = False,
    grace: Grace = 300,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a line on standard output, for machines.")
    ] = False,
) -> None:
    """Compare the storage spaces of a site with its manifest; the site may run or not.

    Told are objects that are missing, that nothing refers to, and of a wrong size or (with --deep)
    digest. Exit code 0 if there are none; 1 if there are; 2 if it could not be found out.
    """
    from datetime import timedelta

    from imaging_ingestion.cli.check import run

    run(
        file or [],
        data,
        space=space,
        deep=deep,
        repair=repair,
        grace=timedelta(seconds=grace),
        as_json=as_json,
    )


@app.command()
def rebuild(
    file: SiteFile = None,
    data: Annotated[Path, typer.Option(help="Folder of the site's data.")] = Path("data"),
    space: Annotated[str | None, typer.Option(help="Only this storage space.")] = None,
    announce: Annotated[
        bool,
        typer.Option("--announce", help="Announce what is recorded, as if it had just arrived."),
    ] = False,
    grace: Grace = 300,
    as_json: Json = False,
) -> None:
    """Record what lies in the storage spaces of a site and its manifest does not know.

    It makes a manifest that was lost, and goes on where it was stopped. Exit code 0; 1 if objects
    were left out, with the reasons; 2 if it failed.
    """
    from datetime import timedelta

    from imaging_ingestion.cli.rebuild import run

    run(
        file or [],
        data,
        space=space,
        announce=announce,
        grace=timedelta(seconds=grace),
        as_json=as_json,
    )


@app.command()
def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Folder to keep data in; a temporary one otherwise.", show_default=False),
    ] = None,
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Taken if it is free, else another one.")
    ] = 8080,
    dimse_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Taken if it is free, else another one.")
    ] = 11112,
) -> None:
    """Show the whole flow with a sample study: in, searchable, settled, FHIR, forwarded.

    Ctrl-C ends it. With CI=true it ends by itself: exit code 0 if all of it happened, else 1.
    """
    from imaging_ingestion.cli.demo import run

    run(data, http_port, dimse_port)


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()

"""The command `imaging-ingestion`: one module a command, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from imaging_ingestion.cli.dimse.peer import DimseOptions

app = typer.Typer(
    name="imaging-ingestion",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs flow
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[str, typer.Option(help="Root URL of a running server.")]
Core = Annotated[str | None, typer.Option(help="Name of a core; the site's first if left out.")]
Binding = Annotated[str | None, typer.Option(help="Only of this binding.")]
Study = Annotated[str | None, typer.Option(help="Only of this Study Instance UID.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for machines.")]

Entity = Annotated[str, typer.Argument(metavar="AE@HOST:PORT", help="Application entity to call.")]
Keys = Annotated[
    list[str],
    typer.Option(
        "-k",
        metavar="NAME[=VALUE]",
        help="Keyword or tag, with a value or to be returned; may be repeated.",
        show_default=False,
    ),
]
Aet = Annotated[str, typer.Option("--aet", help="DIMSE: our own AE title.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="DIMSE: seconds to wait for each answer.")]
Tls = Annotated[bool, typer.Option("--tls", help="DIMSE: over TLS; also if one of the next is.")]
Cert = Annotated[
    Path | None, typer.Option(help="DIMSE: our certificate (PEM or PKCS#12).", show_default=False)
]
Key = Annotated[
    Path | None, typer.Option(help="DIMSE: its key, if in a file of its own.", show_default=False)
]
Ca = Annotated[
    Path | None,
    typer.Option(
        help="DIMSE: certificates we trust; the system's if left out.", show_default=False
    ),
]


def _dimse(
    aet: str, timeout: float, tls: bool, cert: Path | None, key: Path | None, ca: Path | None
) -> DimseOptions:
    from imaging_ingestion.cli.dimse.peer import DimseOptions

    return DimseOptions(aet, timeout, tls, cert, key, ca)


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


spool = typer.Typer(help="What a proxy in mode spool keeps.", no_args_is_help=True)
app.add_typer(spool, name="spool")

SpoolData = Annotated[
    Path, typer.Option(envvar="DIMSE_SPOOL_DIRECTORY", help="Folder of the spool.")
]


@spool.command("status")
def spool_status(data: SpoolData, as_json: Json = False) -> None:
    """Show how much waits to be sent, and of which studies. The proxy may run or not."""
    from imaging_ingestion.cli.spool import show_status

    show_status(data, as_json=as_json)


@spool.command("dead")
def spool_dead(data: SpoolData, study: Study = None, as_json: Json = False) -> None:
    """List what the target refused for good, with its answers."""
    from imaging_ingestion.cli.spool import show_dead

    show_dead(data, study=study, as_json=as_json)


@spool.command("replay")
def spool_replay(data: SpoolData, study: Study = None) -> None:
    """Send what was refused once more."""
    from imaging_ingestion.cli.spool import replay_dead

    replay_dead(data, study=study)


@spool.command("discard")
def spool_discard(
    data: SpoolData,
    study: Study = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: nothing brings them back.")] = False,
) -> None:
    """Delete what was refused."""
    from imaging_ingestion.cli.spool import discard_dead

    discard_dead(data, study=study, is_sure=yes)


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

    dimse = _dimse(aet, timeout, tls, cert, key, ca)
    run(paths, to, concurrency=concurrency, token=token, force=force, as_json=as_json, dimse=dimse)


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

    command.echo(to, _dimse(aet, timeout, tls, cert, key, ca), as_json=as_json)


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

    options = _dimse(aet, timeout, tls, cert, key, ca)
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

    command.move(to, dest, keys, _dimse(aet, timeout, tls, cert, key, ca), as_json=as_json)


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

    command.get(to, keys, out, _dimse(aet, timeout, tls, cert, key, ca), as_json=as_json)


@app.command()
def studies(
    url: Url = "http://127.0.0.1:8080",
    space: Annotated[str | None, typer.Option(help="Only of this storage space.")] = None,
    core: Core = None,
    as_json: Json = False,
) -> None:
    """List the studies of a running server."""
    from imaging_ingestion.cli.lists import show_studies

    show_studies(url, core=core, space=space, as_json=as_json)


@app.command()
def deliveries(
    url: Url = "http://127.0.0.1:8080",
    binding: Binding = None,
    state: Annotated[
        Literal["pending", "delivered", "dead"] | None, typer.Option(help="Only in this state.")
    ] = None,
    study: Study = None,
    core: Core = None,
    as_json: Json = False,
) -> None:
    """Show the delivery ledger of a running server: what each binding got, or not, and why."""
    from imaging_ingestion.cli.lists import show_deliveries

    show_deliveries(url, core=core, binding=binding, state=state, study=study, as_json=as_json)


@app.command()
def replay(
    url: Url = "http://127.0.0.1:8080",
    binding: Binding = None,
    state: Annotated[
        Literal["dead", "delivered", "pending", "any"], typer.Option(help="Those in this state.")
    ] = "dead",
    study: Study = None,
    core: Core = None,
    as_json: Json = False,
) -> None:
    """Drive deliveries again: dead letters, unless told otherwise."""
    from imaging_ingestion.cli.lists import replay_deliveries

    replay_deliveries(url, core=core, binding=binding, state=state, study=study, as_json=as_json)


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
def delete(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    instance: Annotated[
        str | None, typer.Option(help="Only this SOP Instance UID; with --series.")
    ] = None,
    space: Annotated[str, typer.Option(help="The storage space.")] = "default",
    url: Url = "http://127.0.0.1:8080",
    core: Core = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a study, a series or an instance from a running server. Nothing brings it back.

    Exit code 0; 1 if it is not there or no server answers; 2 if it was not confirmed.
    """
    from imaging_ingestion.cli.delete import delete as command

    command(
        url,
        study,
        series=series,
        instance=instance,
        space=space,
        core=core,
        is_sure=yes,
        as_json=as_json,
    )


quarantine = typer.Typer(help="What a running server keeps aside.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")
Numbers = Annotated[list[int], typer.Argument(metavar="NUMBER", min=1, help="As `list` says.")]


@quarantine.command("list")
def quarantine_list(
    url: Url = "http://127.0.0.1:8080",
    space: Annotated[str | None, typer.Option(help="Only of this storage space.")] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Those about which has been decided, too.")
    ] = False,
    core: Core = None,
    as_json: Json = False,
) -> None:
    """List the instances that are kept aside, and why."""
    from imaging_ingestion.cli.quarantine import show_quarantine

    show_quarantine(url, core=core, space=space, resolved=resolved, as_json=as_json)


@quarantine.command("accept")
def quarantine_accept(
    numbers: Numbers,
    url: Url = "http://127.0.0.1:8080",
    core: Core = None,
    as_json: Json = False,
) -> None:
    """Record instances after all: each replaces what the space has."""
    from imaging_ingestion.cli.quarantine import decide

    decide(url, numbers, "accept", core=core, as_json=as_json)


@quarantine.command("discard")
def quarantine_discard(
    numbers: Numbers,
    url: Url = "http://127.0.0.1:8080",
    core: Core = None,
    as_json: Json = False,
) -> None:
    """Give instances up: their objects are removed."""
    from imaging_ingestion.cli.quarantine import decide

    decide(url, numbers, "discard", core=core, as_json=as_json)


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

"""Commands that ask a running server, or tell it what to do."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from imaging_ingestion.cli.options import (
    Binding,
    Core,
    Json,
    Study,
    Url,
)

app = typer.Typer()


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


@app.command()
def delete(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    instance: Annotated[
        str | None, typer.Option(help="Only this SOP Instance UID; with --series.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="The storage space; the site's first if left out.")
    ] = None,
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

"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from imaging_ingestion.cli.dimse.peer import DimseOptions

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


def dimse_options(
    aet: str, timeout: float, tls: bool, cert: Path | None, key: Path | None, ca: Path | None
) -> DimseOptions:
    """How an application entity is called."""
    from imaging_ingestion.cli.dimse.peer import DimseOptions

    return DimseOptions(aet, timeout, tls, cert, key, ca)

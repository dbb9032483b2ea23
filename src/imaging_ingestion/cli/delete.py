"""`delete`: studies, series and instances of a running server, through its API."""

from __future__ import annotations

import json
import sys
from typing import NoReturn
from urllib.parse import quote

from imaging_ingestion.cli.api_client import Api, ApiError
from imaging_ingestion.cli.terminal import plain


def delete(
    url: str,
    study: str,
    *,
    series: str | None,
    instance: str | None,
    space: str | None,
    core: str | None,
    is_sure: bool,
    as_json: bool,
) -> None:
    """Delete, after asking, and print how many instances went.

    `space` None is the first one of the site.
    """
    if instance is not None and series is None:
        _fail("--instance: --series was expected beside it", 2)
    try:
        api = Api(url)
        space = space or api.get("spaces", {"core": core})["spaces"][0]
    except ValueError as error:
        _fail(f"--url {error}", 2)
    except ApiError as error:
        _fail(error, 1)
    what = f"study {study}"
    path = f"studies/{quote(space, safe='')}/{quote(study, safe='')}"
    if series is not None:
        what, path = f"series {series} of {what}", f"{path}/series/{quote(series, safe='')}"
    if instance is not None:
        what, path = f"instance {instance}", f"{path}/instances/{quote(instance, safe='')}"
    if not (is_sure or _confirmed(f"Delete {what} from space {space}?")):
        _fail("Nothing was deleted: say --yes to delete without being asked.", 2)
    try:
        answer = api.delete(path, {"core": core})
    except ApiError as error:
        _fail(error, 1)
    if as_json:
        print(json.dumps(answer))
        return
    count = answer["deleted"]
    print(f"{count} {'instance was' if count == 1 else 'instances were'} deleted")


def _confirmed(question: str) -> bool:
    """What somebody at a terminal says; False where nobody is."""
    if not sys.stdin.isatty():
        return False
    print(plain(question), "[y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _fail(sentence: object, code: int) -> NoReturn:
    print(plain(str(sentence)), file=sys.stderr)
    raise SystemExit(code)

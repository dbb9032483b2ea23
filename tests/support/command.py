"""The command `imaging-ingestion` as a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 120.0  # seconds


def command_line(*arguments: str | Path) -> list[str]:
    """How to start the command."""
    return [sys.executable, "-m", "imaging_ingestion.cli.main", *map(str, arguments)]


def obeying_permissions() -> list[str]:
    """What to begin a command line with, so that root, too, may only do what permissions say."""
    if os.geteuid():
        return []
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


#: What would change how the command looks, or what it does, from outside.
_LEFT_OUT = frozenset({"CI", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "STOW_AUTH_TOKEN"})


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what changes the command, and with `more`."""
    return {k: v for k, v in os.environ.items() if k not in _LEFT_OUT} | more


def command(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    codes: Sequence[int] = (0,),
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; the test fails if its exit code is not one of `codes`."""
    done = subprocess.run(
        [*prefix, *command_line(*arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment() if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    said = f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.returncode in codes, said
    assert "Traceback" not in done.stderr, said
    return done


@contextmanager
def started(
    *arguments: str | Path, stdout: int, stderr: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs; killed at the end if it still does."""
    process = subprocess.Popen(
        command_line(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        env=environment() if env is None else dict(env),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

"""Two processes that watch each other, so that the death of one is told at once.

A process that is killed cannot say goodbye, and to the other side its silence looks like a network
that is cut, which is waited for. So the work is done in a child, and its parent tells the other
side if the child dies; if the parent dies, the child ends its work. Only when both are killed at
once, or the machine goes, is there nobody left to tell.

The parent has nothing else to do, so it becomes the smallest Python there is: this file, run as a
script, without the site's packages. It must import nothing but the standard library, and little.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FAILED = 1


def run_guarded(work: Callable[[int], int], obituary: Sequence[str]) -> NoReturn:
    """Do `work` in a child, and end as it ends.

    `work` gets a file descriptor that comes to its end when this process dies, and returns the exit
    code. `obituary` is a command that is run when the child was killed, or failed (exit code 1).
    """
    alive, kept_open = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(kept_open)
        code = _FAILED
        try:
            code = work(alive)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(alive)
    os.set_inheritable(kept_open, True)
    # A signal that comes now waits until the script can pass it on.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    script = [sys.executable, "-I", "-S", __file__, str(child), *obituary]
    os.execv(sys.executable, script)  # noqa: S606 - it is this file


def _watch(child: int, obituary: Sequence[str]) -> int:
    """Wait for the child, and pass on what signals come; the exit code."""
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _frame: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    _, status = os.waitpid(child, 0)
    for number in _PASSED_ON:
        signal.signal(number, signal.SIG_DFL)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 or code == _FAILED:
        os.spawnv(os.P_WAIT, obituary[0], list(obituary))  # noqa: S606 - it is given by `run_guarded`
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(_watch(int(sys.argv[1]), sys.argv[2:]))

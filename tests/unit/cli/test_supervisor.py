"""The process that keeps others running: real processes, each test in an interpreter of its own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from imaging_ingestion.cli.supervisor import DEATHS, LONG, Restarts

_HEAD = """
import os, signal, sys, time
from pathlib import Path
from imaging_ingestion.cli import supervisor
from imaging_ingestion.cli.process import configure_logging
from imaging_ingestion.cli.supervisor import Job, Line, Supervisor

configure_logging()
supervisor.FIRST_PAUSE = 0.01
folder = Path(sys.argv[1])

def wait(line):
    "Until SIGTERM, or until the supervisor is gone."
    os.read(line.alive, 1)
    return 7

def tell(text):
    print(text, flush=True)
"""


def start(folder: Path, code: str) -> subprocess.Popen[str]:
    """A supervisor that runs in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-c", _HEAD + textwrap.dedent(code), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_process_that_dies_seldom_is_started_again_at_once() -> None:
    restarts = Restarts()
    for day in range(20):
        assert restarts.pause(day * 1000.0, day * 1000.0 + LONG) == 0.0


def test_a_process_that_dies_again_and_again_waits_longer_each_time_and_is_given_up() -> None:
    restarts = Restarts()
    pauses = [restarts.pause(0.0, 1.0) for _ in range(DEATHS)]
    assert pauses[0] == 0.0
    assert pauses[-1] is None
    waits = [pause for pause in pauses[1:-1] if pause is not None]
    assert len(waits) == DEATHS - 2
    assert all(later == 2 * sooner for sooner, later in itertools.pairwise(waits))


def test_stages_begin_one_after_the_other_and_a_signal_stops_all(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        def work(name):
            def run(line):
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                line.ready(name)
                return wait(line)
            return run
        jobs = [Job(name, work(name), on_ready=tell, is_needed=name == "a") for name in "ab"]
        sys.exit(Supervisor([[one] for one in jobs], on_ready=lambda: tell("all")).run())
        """,
    )
    assert [said(process) for _ in range(3)] == ["a", "b", "all"]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors


def test_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        def work(line):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            line.ready(str(os.getpid()))
            return wait(line)
        job = Job("one", work, on_ready=tell, on_death=lambda code: tell(f"died {code}"))
        sys.exit(Supervisor([[job]], on_ready=lambda: None).run())
        """,
    )
    first = int(said(process))
    os.kill(first, signal.SIGKILL)
    assert said(process) == "died -9"
    assert int(said(process)) != first
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "worker.died" in errors


def test_one_that_dies_in_the_moment_when_it_is_ready_is_replaced(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        def once(line):
            first = not (folder / "begun").exists()
            (folder / "begun").touch()
            line.ready("here")
            if first:
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / "again").touch()
            return 0 if wait(line) else 1

        # What a process says is heard only when it has ended: the worst of all orders.
        Supervisor._turn_early = Supervisor._turn
        def turn(self):
            time.sleep(0.2)
            self._bury()
            self._turn_early()
        Supervisor._turn = turn
        sys.exit(Supervisor([[Job("one", once)]], on_ready=lambda: tell("ready")).run())
        """,
    )
    assert said(process) == "ready"
    deadline = time.monotonic() + 30
    while not (tmp_path / "again").exists():
        assert time.monotonic() < deadline, "it was not started again"
        time.sleep(0.01)  # it tells nobody
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_one_that_died_before_the_stop_has_not_stopped_badly(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        def work(line):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            line.ready(str(os.getpid()))
            return wait(line)
        pids = []
        def slow(code):
            "While it tells of one death, another one dies, and it is told to stop."
            os.kill(pids[0], signal.SIGKILL)
            os.waitid(os.P_PID, pids[0], os.WEXITED | os.WNOWAIT)
            os.kill(os.getpid(), signal.SIGTERM)
        def ready():
            os.kill(pids[1], signal.SIGKILL)
        learn = lambda text: pids.append(int(text))
        stages = [[Job("one", work, on_ready=learn)],
                  [Job("two", work, on_ready=learn, on_death=slow)]]
        sys.exit(Supervisor(stages, on_ready=ready).run())
        """,
    )
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "stopped_badly" not in errors


def test_one_that_dies_again_and_again_ends_all_with_a_message(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        def good(line):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            line.ready()
            return wait(line)
        def bad(line):
            line.ready()
            while not (folder / "go").exists():
                time.sleep(0.01)
            return 3
        jobs = [Job("good", good), Job("bad", bad)]
        sys.exit(Supervisor([jobs], on_ready=(folder / "go").touch).run())
        """,
    )
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.count("worker.died") == DEATHS - 1
    assert "worker.given_up" in errors


def test_a_process_that_cannot_start_ends_all_with_its_exit_code(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        jobs = [Job("one", lambda line: 2), Job("never", lambda line: tell("begun"))]
        sys.exit(Supervisor([jobs[:1], jobs[1:]], on_ready=lambda: tell("all")).run())
        """,
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert output == ""


def test_processes_know_that_their_supervisor_was_killed(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        """
        def work(line):
            line.ready()
            code = wait(line)
            (folder / "abandoned").touch()
            tell("abandoned")
            return code
        sys.exit(Supervisor([[Job("one", work)]], on_ready=lambda: tell("all")).run())
        """,
    )
    assert said(process) == "all"
    process.kill()
    assert said(process) == "abandoned"
    process.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_has_not_begun_is_stopped_too(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = start(
        tmp_path,
        """
        def slow(line):
            tell("slow")
            return wait(line)
        sys.exit(Supervisor([[Job("slow", slow)]], on_ready=lambda: tell("all")).run())
        """,
    )
    assert said(process) == "slow"
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors

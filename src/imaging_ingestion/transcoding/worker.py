"""The process that decodes and encodes: `python -m imaging_ingestion.transcoding.worker`.

Its standard input is a socket. A job comes as a line of JSON with two files, a line of JSON goes
back, one after the other. The files have no names, so that nothing of a patient is left behind
whatever happens. The process ends when its input does, when nothing came for a while, or when a
codec brings it down.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import warnings

import msgspec

from imaging_ingestion.dicom.transcode import TranscodeError, transcode

#: Bytes of a job or result.
LONGEST_LINE = 1 << 14
_PR_SET_PDEATHSIG = 1


class Job(msgspec.Struct, frozen=True):
    """Convert the data set in the first file to the second one."""

    source_uid: str
    target_uid: str


class Result(msgspec.Struct, frozen=True):
    """How it ended. `reason` None: well. `is_refusal`: it would end the same again."""

    reason: str | None = None
    is_refusal: bool = False


def main() -> None:
    """Work off jobs.

    The arguments are the memory it may take, in bytes of address space, and the seconds without a
    job after which it gives that back.
    """
    _confine(int(sys.argv[1]))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    decode = msgspec.json.Decoder(Job).decode
    with socket.socket(fileno=os.dup(0)) as jobs:
        jobs.settimeout(float(sys.argv[2]))
        while True:
            try:
                line, files, _, _ = socket.recv_fds(jobs, LONGEST_LINE, 2)
            except TimeoutError:
                return
            if not line:
                return
            result = _work(decode(line), *files)
            jobs.sendall(msgspec.json.encode(result) + b"\n")


def _work(job: Job, source_file: int, target_file: int) -> Result:
    try:
        with open(source_file, "rb") as source, open(target_file, "wb") as target:
            transcode(source, job.source_uid, target, job.target_uid)
    except TranscodeError as error:
        return Result(str(error)[:1000], is_refusal=True)
    except OSError as error:
        return Result(error.strerror or type(error).__name__)
    except MemoryError:
        return Result("it takes too much memory", is_refusal=True)
    except Exception as error:  # noqa: BLE001 - whatever codecs make of what nobody foresaw
        return Result(f"it cannot be read: {type(error).__name__}", is_refusal=True)
    return Result()


def _confine(memory: int) -> None:
    """No more memory than that, no core file with somebody's image, and no life of its own."""
    # Ctrl-C in a terminal goes to all: what is in hand is still wanted.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import resource

    with contextlib.suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()

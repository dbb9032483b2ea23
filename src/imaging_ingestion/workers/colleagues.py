"""The processes that are a site together, and the little they tell each other.

What must last is in the database; this is what need not: that the log has grown, so that whoever
follows it elsewhere looks at once, and the figures of each process for whichever of them is asked.

Each process has two sockets on which the others write to it. They are made before the processes are
forked and kept by the one that supervises, so they have no names that anybody else could call, and
a process that comes in another one's place finds them there. Whatever cannot be written at once is
left out: a reader that has something to read looks anyway.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final

import structlog

log = structlog.get_logger(__name__)

#: Seconds that another process has for its figures, and their largest size in bytes.
PATIENCE: Final = 2.0
_LARGEST: Final = 16 << 20
_PIECE: Final = 1 << 16
_COMMIT: Final = b"c"
_FIGURES: Final = b"f"


class _Mailbox:
    """A pair of sockets: everybody writes to `inlet`, its owner reads `outlet`."""

    def __init__(self) -> None:
        self.outlet, self.inlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.outlet.setblocking(False)
        self.inlet.setblocking(False)


class Colleagues:
    """All of them. Made before they are forked; `at(number)` is for each, from 1."""

    def __init__(self, number: int) -> None:
        self._commits = {one: _Mailbox() for one in range(1, number + 1)}
        self._figures = {one: _Mailbox() for one in range(1, number + 1)}

    def at(self, number: int) -> Colleague:
        """For the process that has this number."""
        return Colleague(number, self._commits, self._figures)


class Colleague:
    """This process among them."""

    def __init__(
        self, number: int, commits: Mapping[int, _Mailbox], figures: Mapping[int, _Mailbox]
    ) -> None:
        self.number = number
        self._commits = commits
        self._figures = figures
        self._others = [one for one in commits if one != number]
        self._answering: set[asyncio.Task[None]] = set()

    def follow(self, on_commit: Callable[[], None]) -> None:
        """From now on call `on_commit` when others have committed."""
        box = self._commits[self.number].outlet

        def came() -> None:
            _drain(box)
            on_commit()

        asyncio.get_running_loop().add_reader(box, came)

    def answer_with(self, figures: Callable[[], bytes]) -> None:
        """From now on give `figures` to whoever asks for them."""
        box = self._figures[self.number].outlet
        asyncio.get_running_loop().add_reader(box, self._figures_wanted, box, figures)

    async def stop(self) -> None:
        """Listen no more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._commits[self.number].outlet)
        loop.remove_reader(self._figures[self.number].outlet)
        if self._answering:
            await asyncio.wait(self._answering)

    def committed(self) -> None:
        """Tell the others that the log has grown."""
        for one in self._others:
            try:
                self._commits[one].inlet.send(_COMMIT)
            except OSError:
                continue  # it has been told so often that it looks anyway

    async def figures(self) -> dict[int, bytes | None]:
        """The figures of each of the others; None of those that do not answer in time."""
        answers = await asyncio.gather(*(self._ask(one) for one in self._others))
        return dict(zip(self._others, answers, strict=True))

    # ---- its own

    async def _ask(self, one: int) -> bytes | None:
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            with theirs:
                socket.send_fds(self._figures[one].inlet, [_FIGURES], [theirs.fileno()])
            async with asyncio.timeout(PATIENCE):
                return await _read_all(ours)
        except (OSError, TimeoutError) as error:
            log.warning("worker.no_figures", of=one, error=type(error).__name__)
            return None
        finally:
            ours.close()

    def _figures_wanted(self, box: socket.socket, figures: Callable[[], bytes]) -> None:
        """Answer on the socket that came with each question."""
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(box, len(_FIGURES), 1)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
                task = asyncio.get_running_loop().create_task(_answer(descriptor, figures()))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)


async def _answer(descriptor: int, text: bytes) -> None:
    with socket.socket(fileno=descriptor) as asker:
        asker.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_sendall(asker, text)
        except (OSError, TimeoutError):
            return  # nobody waits for it any more


def _drain(box: socket.socket) -> None:
    while True:
        try:
            box.recv(len(_COMMIT))
        except BlockingIOError:
            return


async def _read_all(source: socket.socket) -> bytes:
    """All until its end. Raises OSError, also if it is nothing or too much."""
    loop = asyncio.get_running_loop()
    text = bytearray()
    while piece := await loop.sock_recv(source, _PIECE):
        text += piece
        if len(text) > _LARGEST:
            raise OSError(f"more than {_LARGEST} bytes")
    if not text:
        raise OSError("no answer")
    return bytes(text)

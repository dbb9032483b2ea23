"""Whose turn it is to accept, among processes that listen on the same sockets.

They share the listening sockets, so a connection is never lost with a process: it waits in the
kernel until somebody takes it. Left to themselves, though, one process takes a whole burst, before
the others are awake. So each tells the others how many connections it has, in memory that they
share, and one that has more than another lets that one go first, for a moment: whoever is too busy
to come then is passed over.

With four connections and two processes this gives each two; SO_REUSEPORT, where the kernel chooses
by a hash, does so in three of eight cases, and loses what waits for a process that ends
(docs/decisions/0011-workers.md).
"""

from __future__ import annotations

import asyncio
import mmap
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

#: How often a process looks whether one that has fewer connections has come, and the seconds until
#: the next look: on a busy machine it takes that one more than 5 ms to be awake.
PATIENCE: Final = 25
_LOOK: Final = 0.002
_COUNT: Final = struct.Struct("=i")
_GONE: Final = -1


class Turns:
    """The connections that each of some processes has at one address.

    Made before the processes are forked. A process that is not there counts as one that has more
    than any other.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._memory = mmap.mmap(-1, processes * _COUNT.size)
        for number in range(processes):
            self.leave(number)

    def turn(self, number: int) -> Turn:
        """For the process that has this number, from 0."""
        return Turn(self, number)

    def leave(self, number: int) -> None:
        """A process is gone: nobody waits for it any more."""
        self.write(number, _GONE)

    def write(self, number: int, connections: int) -> None:
        """A process has so many connections now."""
        _COUNT.pack_into(self._memory, number * _COUNT.size, connections)

    def fewest(self) -> int | None:
        """How many that process has which has the fewest; None if there is none."""
        counts = (count for (count,) in _COUNT.iter_unpack(self._memory[:]) if count != _GONE)
        return min(counts, default=None)


class Turn:
    """One process' part in it."""

    def __init__(self, turns: Turns, number: int) -> None:
        self._turns = turns
        self._number = number
        self._connections = 0
        self._has_come = False
        self._has_left = False

    def come(self) -> None:
        """This process accepts from here on: until then nobody waits for it."""
        if not self._has_come:
            self._has_come = True
            self.have(self._connections)

    def have(self, connections: int) -> None:
        """This process has so many connections now."""
        if self._has_left:
            return
        self._connections = connections
        if self._has_come:
            self._turns.write(self._number, connections)

    @property
    def is_ours(self) -> bool:
        """Whether nobody has fewer."""
        fewest = self._turns.fewest()
        return fewest is None or self._connections <= fewest

    def leave(self) -> None:
        """Let everybody else go first from now on."""
        self._turns.leave(self._number)
        self._has_left, self._connections = True, sys.maxsize


@dataclass(frozen=True, slots=True)
class Entrance:
    """Listening sockets that this process shares with others. `port` is that of all of them."""

    sockets: Sequence[socket.socket]
    turn: Turn

    @property
    def port(self) -> int:
        """Where they listen."""
        return int(self.sockets[0].getsockname()[1])


async def accept(listening: socket.socket, turn: Turn | None) -> tuple[socket.socket, Any]:
    """The next connection, and where it comes from; with `turn`, when that comes. Raises OSError.

    `listening` does not block.
    """
    loop = asyncio.get_running_loop()
    if turn is not None:
        turn.come()
    while turn is not None:
        await _readable(loop, listening)
        for _ in range(PATIENCE):
            if turn.is_ours:
                break
            await asyncio.sleep(_LOOK)  # that another process accepts cannot be waited for
        try:
            connection, address = listening.accept()
        except BlockingIOError:
            continue  # another one has it
        connection.setblocking(False)
        return connection, address
    connection, address = await loop.sock_accept(listening)
    return connection, address


async def _readable(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
    """Wait until there is a connection to accept."""
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(listening, tell)
    try:
        await ready
    finally:
        loop.remove_reader(listening)

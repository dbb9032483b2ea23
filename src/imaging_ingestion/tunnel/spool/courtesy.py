"""Lets what is taken in go before what is sent on.

Both share processors and a disk. A scanner waits for its answers; what is sent on waits for nobody.
So while instances come, others go at `_RATE` only, which is more than most networks between sites
carry; but not for longer than `_FRESH`, for what waits has to go some time (benchmarks/spool.py).
"""

from __future__ import annotations

import asyncio
from typing import Final

#: Bytes a second that go while others come.
_RATE: Final = 4 << 20
#: Seconds that an instance has waited, after which it goes at full speed.
_FRESH: Final = 60.0
#: Seconds after an instance has come in which the next one is likely to come.
_LINGER: Final = 0.1
#: Seconds of one step, for it may be over sooner.
_STEP: Final = 0.1


class Courtesy:
    """Knows whether something is being taken in: use it as a context around that."""

    def __init__(self) -> None:
        self._guests = 0
        self._last = float("-inf")
        self._next = float("-inf")  # when the next one may go, as long as others come

    def __enter__(self) -> None:
        self._guests += 1

    def __exit__(self, *_error: object) -> None:
        self._guests -= 1
        self._last = asyncio.get_running_loop().time()

    async def wait(self, size: int, age: float) -> None:
        """Wait until an instance may go that has `size` bytes and came `age` seconds ago."""
        loop = asyncio.get_running_loop()
        began = now = loop.time()
        turn = max(self._next, now)
        self._next = turn + size / _RATE
        while now < turn and self.is_busy and age + now - began < _FRESH:
            await asyncio.sleep(min(_STEP, turn - now))
            now = loop.time()
        if not self.is_busy:
            self._next = now

    @property
    def is_busy(self) -> bool:
        """Whether something comes."""
        return self._guests > 0 or asyncio.get_running_loop().time() - self._last < _LINGER

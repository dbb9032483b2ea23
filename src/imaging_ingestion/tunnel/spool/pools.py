"""Pools of associations by the AE titles they are between."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from imaging_ingestion.bindings.association_pool import AssociationPool

#: Pairs of titles that are kept although nothing is open between them: callers choose their titles.
_KEPT: Final = 64


class Pools:
    """`make` gives the pool of a called and a calling title."""

    def __init__(self, make: Callable[[str, str], AssociationPool]) -> None:
        self._make = make
        self._pools: OrderedDict[tuple[str, str], AssociationPool] = OrderedDict()

    def between(self, called: str, calling: str) -> AssociationPool:
        """The pool of these titles."""
        titles = (called, calling)
        found = self._pools.get(titles)
        if found is None:
            for old in list(self._pools)[: max(0, len(self._pools) - _KEPT)]:
                if not self._pools[old].is_used:
                    del self._pools[old]
            found = self._pools[titles] = self._make(called, calling)
        self._pools.move_to_end(titles)
        return found

    async def close(self) -> None:
        """End all associations."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

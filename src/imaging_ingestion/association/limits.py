"""What a peer may cost once there is an association with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """Times are in seconds, sizes in bytes.

    `response`: until the next response to a request of ours. `idle`: without anything to do.
    `progress`: in the middle of a message the peer sends `least_progress` bytes at least in each
    such time, and takes as many of what is sent to it. `held`: of data sets that wait for their
    services, before the peer waits. `answer_data_set`: of one response's data set.
    """

    response: float = 60.0
    idle: float = 600.0
    progress: float = 30.0
    least_progress: int = 4096
    held: int = 512 << 10
    answer_data_set: int = 4 << 20

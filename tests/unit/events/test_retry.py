"""When to try again: growing delays, the target's own wish, and an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_ingestion.events.retry import RetryPolicy

EXACT = RetryPolicy(first=1.0, longest=900.0, attempts=300, jitter=0.0)


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [(1, 1.0), (2, 2.0), (3, 4.0), (10, 512.0), (11, 900.0), (200, 900.0), (299, 900.0)],
)
def test_delays_double_up_to_the_longest(attempt: int, expected: float) -> None:
    assert EXACT.delay(attempt, random=0.5) == expected


@pytest.mark.parametrize("attempt", [300, 301, 10_000])
def test_after_the_last_attempt_it_is_given_up(attempt: int) -> None:
    assert EXACT.delay(attempt, random=0.5) is None
    assert EXACT.delay(attempt, random=0.5, retry_after=5) is None


@pytest.mark.parametrize(
    ("attempt", "wish", "expected"),
    [(1, 120.0, 120.0), (1, 0.0, 1.0), (9, 3.0, 256.0), (1, 1e9, 900.0)],
)
def test_a_wish_is_honoured_if_it_is_later_and_within_reason(
    attempt: int, wish: float, expected: float
) -> None:
    assert EXACT.delay(attempt, random=0.5, retry_after=wish) == expected


@given(
    attempt=st.integers(1, 400),
    random=st.floats(0, 1, exclude_max=True),
    wish=st.none() | st.floats(0, 900),
    jitter=st.floats(0, 0.9),
)
def test_chance_never_brings_a_try_before_the_targets_wish_nor_far_off(
    attempt: int, random: float, wish: float | None, jitter: float
) -> None:
    policy = RetryPolicy(jitter=jitter)
    delay = policy.delay(attempt, random=random, retry_after=wish)
    assert (delay is None) is (attempt >= policy.attempts)
    if delay is not None:
        assert 0 < delay <= policy.longest * (1 + jitter)
        assert wish is None or delay >= wish


def test_the_defaults_bridge_a_weekend() -> None:
    policy = RetryPolicy()
    delays = [policy.delay(attempt, random=0.5) for attempt in range(1, policy.attempts)]
    assert sum(delay or 0 for delay in delays) > 2.5 * 24 * 3600

"""Fixtures of the broker port's tests."""

from __future__ import annotations

import pytest
from brokers_under_test import (  # noqa: F401 - fixtures
    broker_on,
    embedded_on,
    jetstream_broker_on,
    jetstream_server,
)
from knative_hub import knative_hub  # noqa: F401 - a fixture

#: Wants events faster than one trigger over HTTP brings them.
_TOO_MUCH = "test_what_another_process_logs_is_seen_while_there_is_much_to_do"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Over Knative the tests that run on both databases run on SQLite.

    Its way leads over HTTP, which knows no database, and three requests for each event take their
    time.
    """
    left_out = [one for one in items if _is_left_out(one)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [one for one in items if one not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    values = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    if values.get("broker_on") != "knative":
        return False
    return "postgresql" in values.values() or getattr(item, "originalname", "") == _TOO_MUCH

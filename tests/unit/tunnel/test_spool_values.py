"""The small values of a spool: settings, origins, courtesy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from imaging_ingestion.dimse.command import CStoreRequest
from imaging_ingestion.nats_client.settings import SettingsError
from imaging_ingestion.resources.quantity import read_quantity
from imaging_ingestion.tunnel.settings import proxy_settings
from imaging_ingestion.tunnel.spool.courtesy import Courtesy
from imaging_ingestion.tunnel.spool.origin import Origin
from imaging_ingestion.tunnel.spool.settings import SpoolSettings

NATS = {"DIMSE_NATS_URL": "localhost"}


def test_a_proxy_keeps_nothing_unless_it_is_told_to() -> None:
    assert proxy_settings(NATS).spool is None
    assert proxy_settings({**NATS, "DIMSE_PROXY_MODE": "relay"}).spool is None


def test_all_settings_of_a_spool_are_read() -> None:
    settings = proxy_settings(
        {
            **NATS,
            "DIMSE_PROXY_MODE": "spool",
            "DIMSE_SPOOL_DIRECTORY": "/var/spool/proxy",
            "DIMSE_SPOOL_QUOTA": "50Gi",
            "DIMSE_SPOOL_MIN_FREE": "0",
            "DIMSE_SPOOL_STREAMS": "2",
            "DIMSE_SPOOL_KEEP": "60",
            "DIMSE_CONFIG_PATH": "/etc/config",
        }
    ).spool
    folder = Path("/var/spool/proxy")
    assert settings == SpoolSettings(folder, 50 << 30, 0, 2, 60, Path("/etc/config"))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"DIMSE_PROXY_MODE": "keep"}, "relay or spool was expected"),
        ({"DIMSE_PROXY_MODE": "spool"}, "DIMSE_SPOOL_DIRECTORY is missing"),
        ({"DIMSE_SPOOL_QUOTA": "many"}, "DIMSE_SPOOL_QUOTA: 'many' is no number of bytes"),
        ({"DIMSE_SPOOL_MIN_FREE": "-1"}, "DIMSE_SPOOL_MIN_FREE"),
        ({"DIMSE_SPOOL_STREAMS": "0"}, "DIMSE_SPOOL_STREAMS"),
    ],
)
def test_what_cannot_be_is_told(values: dict[str, str], problem: str) -> None:
    spool = {"DIMSE_PROXY_MODE": "spool", "DIMSE_SPOOL_DIRECTORY": "/x"}
    if "DIMSE_PROXY_MODE" not in values:
        values = spool | values
    with pytest.raises(SettingsError, match=problem):
        proxy_settings(NATS | values)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("1000", 1000), ("5k", 5000), ("2M", 2_000_000), ("3Ki", 3072), ("1Ti", 1 << 40)],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, number: int) -> None:
    assert read_quantity(text) == number


@pytest.mark.parametrize("text", ["", "1.5Gi", "Gi", "10 G", "1K", "1ki"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number of bytes"):
        read_quantity(text)


@pytest.mark.parametrize(
    "origin",
    [Origin("SCANNER"), Origin("A B", "MOVER", 7), Origin("SCANNER", "MOVER"), Origin("")],
)
def test_an_origin_is_read_as_it_was_written(origin: Origin) -> None:
    assert Origin.read(str(origin)) == origin


def test_the_move_originator_of_a_request_is_told_again() -> None:
    request = CStoreRequest(
        message_id=3,
        affected_sop_class_uid="1.2",
        affected_sop_instance_uid="1.2.3",
        move_originator_application_entity_title="MOVER",
        move_originator_message_id=9,
    )
    again = Origin.of("SCANNER", request).request("1.2", "1.2.3")
    assert again.move_originator_application_entity_title == "MOVER"
    assert again.move_originator_message_id == 9


async def test_while_instances_come_others_go_at_a_moderate_rate() -> None:
    courtesy = Courtesy()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(100):
        await courtesy.wait(1 << 20, age=0.0)
    assert loop.time() - began < 0.1  # nobody comes
    with courtesy:
        began = loop.time()
        for _ in range(5):
            await courtesy.wait(1 << 20, age=0.0)
        assert 0.9 < loop.time() - began < 10
        began = loop.time()
        for _ in range(100):
            await courtesy.wait(1 << 20, age=61.0)
        assert loop.time() - began < 0.1  # they have waited long enough

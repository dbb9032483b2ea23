"""Names on JetStream: safe, and never one for two."""

from __future__ import annotations

import itertools

import pytest
from event_core import published

from imaging_ingestion.brokers.jetstream_names import Names, text_of, token

STRANGE = ["", "_", "a.b", "a b", "a>b", "*", "ä", "%", "%2E", "a/b\\c", "\x00", "\ud800", "a_b"]


@pytest.mark.parametrize("text", STRANGE)
def test_a_name_is_one_token_whatever_it_is(text: str) -> None:
    name = token(text)
    assert name
    assert not set(name) & set(". *>/\\\t\r\n\x00")
    assert name.isascii()


def test_two_names_never_become_one() -> None:
    assert len({token(text) for text in STRANGE}) == len(STRANGE)
    pairs = itertools.product(["a", "a_b", "a.b", "b"], repeat=2)
    streams = {Names(root, core).events for root, core in pairs}
    assert len(streams) == 16


@pytest.mark.parametrize("text", [text for text in STRANGE if text != "\ud800"])
def test_a_token_can_be_read_back(text: str) -> None:
    assert text_of(token(text)) == text


def test_a_core_cannot_reach_into_another_ones_subjects() -> None:
    names = Names("imaging", "a.events")
    event = published(1, type="T", space="x.y")
    assert names.event(event) == "imaging.a%2Eevents.events.T.x%2Ey"
    assert names.all_events == "imaging.a%2Eevents.events.>"
    assert names.dead_letter("to.pacs", 7) == "imaging.a%2Eevents.dead.to%2Epacs.7"

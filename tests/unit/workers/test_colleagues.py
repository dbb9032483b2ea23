"""What processes of one site tell each other; here all are in one process."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from imaging_ingestion.workers import colleagues
from imaging_ingestion.workers.colleagues import Colleagues
from imaging_ingestion.workers.figures import Figures


async def test_the_others_hear_of_a_commit() -> None:
    all_of_them = Colleagues(3)
    heard = {number: asyncio.Event() for number in (1, 2, 3)}
    members = {number: all_of_them.at(number) for number in heard}
    for number, one in members.items():
        one.follow(heard[number].set)
        one.answer_with(bytes)
    members[1].committed()
    async with asyncio.timeout(5):
        await asyncio.gather(heard[2].wait(), heard[3].wait())
    assert not heard[1].is_set()
    for one in members.values():
        await one.stop()


async def test_commits_that_nobody_reads_cost_their_sender_nothing() -> None:
    all_of_them = Colleagues(2)
    one, other = all_of_them.at(1), all_of_them.at(2)
    for _ in range(100_000):
        one.committed()
    heard = asyncio.Event()
    other.follow(heard.set)
    other.answer_with(bytes)
    async with asyncio.timeout(5):
        await heard.wait()
    await other.stop()


async def test_whoever_is_asked_shows_the_metrics_of_all() -> None:
    all_of_them = Colleagues(2)
    members = []
    for number in (1, 2):
        own = CollectorRegistry()
        Counter("stores", "Stored.", ["status"], registry=own).labels("0000").inc(number * 10)
        member = all_of_them.at(number)
        figures = Figures(own, member)
        member.answer_with(figures.packed)
        member.follow(lambda: None)
        members.append((member, figures))
    for member, figures in members:
        registry = CollectorRegistry()
        registry.register(figures)
        await figures.ask()
        text = generate_latest(registry).decode()
        assert 'stores_total{status="0000",worker="1"} 10.0' in text
        assert 'stores_total{status="0000",worker="2"} 20.0' in text
        assert text.count("# TYPE stores_total counter") == 1
        assert f'imaging_ingestion_worker_up{{worker="{member.number}"}} 1.0' in text
    for member, _ in members:
        await member.stop()


async def test_a_process_that_does_not_answer_is_shown_as_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(colleagues, "PATIENCE", 0.05)
    own = CollectorRegistry()
    figures = Figures(own, Colleagues(2).at(1))
    await figures.ask()
    registry = CollectorRegistry()
    registry.register(figures)
    text = generate_latest(registry).decode()
    assert 'imaging_ingestion_worker_up{worker="1"} 1.0' in text
    assert 'imaging_ingestion_worker_up{worker="2"} 0.0' in text

"""The carrier to Knative: what it POSTs, in which order, and what the sink's answers mean."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from certificates import Authority
from http_recorder import Answer, Recorded, Recorder, http_recorder

from imaging_ingestion.brokers.knative import KnativeCarrier, read_overrides
from imaging_ingestion.brokers.outbox import CarrierAwayError, CarrierRefusedError
from imaging_ingestion.events.http_binding import read_message
from imaging_ingestion.events.model import Event


def event(number: int, study: str | None = "1.2", **fields: object) -> Event:
    values = {
        "id": str(number),
        "source": "/imaging-ingestion/core/default",
        "type": "StudyRevisionEvent",
        "subject": f"studies/{study}",
        "time": "2026-01-01T00:00:00Z",
        "data": b'{"number":%d}' % number,
        "study_instance_uid": study,
        "seq": number,
    }
    return Event(**{**values, **fields})  # type: ignore[arg-type]


@asynccontextmanager
async def carrier_to(url: str, **settings: object) -> AsyncIterator[KnativeCarrier]:
    carrier = KnativeCarrier(url, **settings)  # type: ignore[arg-type]
    await carrier.start()
    try:
        yield carrier
    finally:
        await carrier.stop()


def ids(sink: Recorder) -> list[str]:
    return [one.headers["ce-id"] for one in sink.requests]


def answering(answers: dict[str, Answer]) -> Callable[[Recorded], Answer]:
    """A sink that answers the events of these ids so, each once, and 202 else."""
    return lambda request: answers.pop(request.headers["ce-id"], Answer(202))


async def test_each_event_is_posted_in_binary_mode() -> None:
    """E3."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with http_recorder() as sink, carrier_to(f"{sink.url}/ns/broker") as carrier:
        sent = event(1, traceparent=trace)
        await carrier.carry([sent])
        (request,) = sink.requests
        assert (request.method, request.target) == ("POST", "/ns/broker")
        assert request.headers["traceparent"] == trace
        raw = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        (got,), _ = read_message(raw, request.body)
        assert (got.context(), got.data) == (sent.context(), sent.data)


async def test_an_event_without_data_is_posted_without_a_content_type() -> None:
    async with http_recorder() as sink, carrier_to(sink.url) as carrier:
        await carrier.carry([event(1, data=None, dataref="http://x/api/revisions/1")])
        (request,) = sink.requests
        assert "content-type" not in request.headers
        assert request.headers["ce-dataref"] == "http://x/api/revisions/1"


async def test_events_of_one_study_go_one_after_the_other_and_studies_together() -> None:
    busy: dict[str, int] = {}
    most: dict[str, int] = {}
    together = asyncio.Event()
    seen: list[tuple[str, int]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        study = request.headers["ce-partitionkey"]
        busy[study] = busy.get(study, 0) + 1
        most[study] = max(most.get(study, 0), busy[study])
        if sum(busy.values()) == 3:  # all three studies at once, or this never ends
            together.set()
        async with asyncio.timeout(30):
            await together.wait()
        seen.append((study, int(request.headers["ce-id"])))
        busy[study] -= 1
        return web.Response(status=202)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with carrier_to(url) as carrier:
            await carrier.carry([event(n, f"1.{n % 3}") for n in range(30)])
    finally:
        await runner.cleanup()
    assert set(most.values()) == {1}
    for study in range(3):
        assert [n for of, n in seen if of == f"1.{study}"] == list(range(study, 30, 3))


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408, 425, 409, 404, 401, 403, 302])
async def test_what_would_meet_every_event_means_that_the_sink_is_away(status: int) -> None:
    """E11."""
    answers = {"2": Answer(status, b"not now")}
    async with http_recorder(answering(answers)) as sink, carrier_to(sink.url) as carrier:
        events = [event(n) for n in range(1, 4)]
        with pytest.raises(CarrierAwayError, match=f"{status}: not now"):
            await carrier.carry(events)
        assert ids(sink) == ["1", "2"]
        await carrier.carry(events)
        assert ids(sink) == ["1", "2", "2", "3"]  # what was taken is not sent again
        await carrier.carry(events)  # somebody has gone back in the log
        assert ids(sink)[4:] == ["1", "2", "3"]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_what_is_said_of_the_event_itself_is_a_refusal_for_good(status: int) -> None:
    answers = {"2": Answer(status, b"no such thing")}
    async with http_recorder(answering(answers)) as sink, carrier_to(sink.url) as carrier:
        with pytest.raises(CarrierRefusedError, match=f"{status}: no such thing") as caught:
            await carrier.carry([event(n) for n in range(1, 4)])
        assert caught.value.event.id == "2"
        await carrier.carry([event(1), event(3)])
        assert ids(sink) == ["1", "2", "3"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_sink_that_wants_to_be_left_alone_is_left_alone(status: int) -> None:
    """E11."""
    answers = {"1": Answer(status, headers={"Retry-After": "30"})}
    async with http_recorder(answering(answers)) as sink, carrier_to(sink.url) as carrier:
        with pytest.raises(CarrierAwayError, match=str(status)):
            await carrier.carry([event(1)])
        with pytest.raises(CarrierAwayError, match=r"left alone for (30|29) s more"):
            await carrier.carry([event(1)])
        assert ids(sink) == ["1"]


async def test_a_sink_that_is_not_there_is_away_and_its_path_is_not_told() -> None:
    async with http_recorder() as sink:
        url = f"{sink.url}/secret-namespace/broker"
    async with carrier_to(url) as carrier:
        with pytest.raises(CarrierAwayError) as caught:
            await carrier.carry([event(1)])
    assert "secret-namespace" not in str(caught.value)


async def test_extensions_of_the_overrides_are_on_every_event() -> None:
    overrides = read_overrides('{"extensions": {"tenant": "radiology 1"}}')
    async with (
        http_recorder() as sink,
        carrier_to(sink.url, extensions=overrides) as carrier,
    ):
        await carrier.carry([event(1)])
        assert sink.requests[0].headers["ce-tenant"] == "radiology%201"


@pytest.mark.parametrize("text", ["", "[]", '{"extensions": {"A": "b"}}', '{"extensions": 1}'])
def test_overrides_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="K_CE_OVERRIDES: "):
        read_overrides(text)


def test_certificates_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no certificates in PEM"):
        KnativeCarrier("https://x", ca_certs="nonsense")


async def test_a_sinks_certificate_is_verified(tmp_path: Path) -> None:
    authority = Authority()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue(kind="EC").pem(tmp_path / "sink.pem"))
    taken: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        taken.append(request.headers["ce-id"])
        return web.Response(status=202)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
        async with carrier_to(url) as carrier:
            with pytest.raises(CarrierAwayError, match="certificate verify failed"):
                await carrier.carry([event(1)])
        assert taken == []
        pem = authority.file(tmp_path / "ca.pem").read_text()
        async with carrier_to(url, ca_certs=pem) as carrier:
            await carrier.carry([event(2)])
        assert taken == ["2"]
    finally:
        await runner.cleanup()

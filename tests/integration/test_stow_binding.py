"""The STOW binding over real HTTP: to a second space of ours, and to a target that does as told."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from instances import padded, with_uids
from scripted_target import (
    Exchange,
    Script,
    ScriptedTarget,
    failed_response,
    scripted_target,
    stored_response,
)
from stow_site import StowSite, stow_site, until
from structlog.testing import capture_logs

from imaging_ingestion.bindings import http_target
from imaging_ingestion.bindings.http_target import Credentials, HttpTarget
from imaging_ingestion.bindings.selector import parse_selector
from imaging_ingestion.bindings.stow import StowBinding
from imaging_ingestion.dicomweb.service import DicomwebSettings
from imaging_ingestion.events.broker import Handler, RefusedError, Subscription, TryAgainError
from imaging_ingestion.events.model import DICOM_AVAILABLE, Event
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.events.stored import ConflictPolicy
from imaging_ingestion.intake import IntakeSettings
from imaging_ingestion.manifest import ledger
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.manifest.ledger import LedgerEntry
from imaging_ingestion.storage.space import Space

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.7", "1.2.826.0.1.3680043.8.498.7.1"
TOKEN = "a-secret-token"
SOON = RetryPolicy(first=0.05, longest=0.2, attempts=1000)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def sop(number: int) -> str:
    return f"{SERIES}.{number}"


@pytest.fixture(scope="session")
def instances(dicom_file: Callable[[str], Path]) -> list[bytes]:
    source = dicom_file("CT_small.dcm")
    return [with_uids(source, STUDY, SERIES, sop(number)) for number in range(6)]


class Source:
    """A space with a STOW binding."""

    def __init__(self, site: StowSite, binding: StowBinding) -> None:
        self.site = site
        self.binding = binding

    async def deliveries(self) -> list[LedgerEntry]:
        """The ledger."""
        return await self.site.database.read(ledger.page, limit=5000)

    async def delivery(self, state: str, attempts: int = 1) -> LedgerEntry:
        """The one delivery there is, as soon as it is in that state after so many tries.

        A try counts from its beginning, but is over when there is an answer.
        """
        found: list[LedgerEntry] = []

        async def reached() -> bool:
            found[:] = await self.deliveries()
            if len(found) != 1 or found[0].answer is None:
                return False
            return found[0].state == state and found[0].attempts >= attempts

        try:
            await until(reached, f"the delivery is {state} after {attempts} tries")
        finally:
            print(found)
        return found[0]

    async def all_delivered(self, number: int) -> None:
        async def reached() -> bool:
            found = await self.deliveries()
            return len(found) == number and {one.state for one in found} == {"delivered"}

        await until(reached, f"{number} deliveries are made")


@asynccontextmanager
async def source(
    folder: Path,
    endpoint: str,
    *,
    credentials: Credentials | None = None,
    selector: str | None = None,
    retry: RetryPolicy = SOON,
) -> AsyncIterator[Source]:
    """A space whose instances go to `endpoint`."""
    target = HttpTarget(credentials or Credentials(), connections=4)
    bindings = []

    def bind(database: Database, spaces: Mapping[str, Space]) -> list[tuple[Subscription, Handler]]:
        binding = StowBinding(endpoint, target, database, spaces)
        bindings.append(binding)
        wanted = parse_selector(selector)
        subscription = Subscription(
            "forward",
            DICOM_AVAILABLE,
            retry=retry,
            wants=lambda event: wanted.wants(event.provider),
        )
        return [(subscription, binding.deliver)]

    async with AsyncExitStack() as stack:
        stack.push_async_callback(target.close)
        site = await stack.enter_async_context(stow_site(folder, bindings=bind))
        yield Source(site, bindings[0])
        # Whatever happened, no object is left open.
        await until(lambda: not site.open_files(), "no file stays open")


async def takes(exchange: Exchange) -> None:
    """A target that stores what is sent."""
    await exchange.read()
    await exchange.answer(200, stored_response(sop(0)))


@asynccontextmanager
async def both(
    folder: Path, script: Script = takes, **how: object
) -> AsyncIterator[tuple[Source, ScriptedTarget]]:
    """A source and its target."""
    async with (
        scripted_target(script) as target,
        source(folder, target.url, **how) as sending,  # type: ignore[arg-type]
    ):
        yield sending, target


def event_of(uid: str, **fields: object) -> Event:
    event = Event(
        id="1",
        source="/test",
        type=DICOM_AVAILABLE,
        subject="instances",
        time="2024-01-01T00:00:00Z",
        space="default",
        sop_instance_uid=uid,
    )
    return replace_event(event, **fields)


def replace_event(event: Event, **fields: object) -> Event:
    return Event(**({name: getattr(event, name) for name in event.__struct_fields__} | fields))


# --- to a second space of ours


@pytest.mark.parametrize("path", ["", "/", "/studies", "/studies/"])
async def test_every_instance_arrives_byte_for_byte(
    tmp_path: Path, instances: list[bytes], path: str
) -> None:
    async with (
        stow_site(tmp_path / "target") as target,
        source(tmp_path / "source", target.url + path) as sending,
    ):
        await sending.site.send(*instances)
        await sending.all_delivered(len(instances))
        await target.assert_holds(*[sop(n) for n in range(len(instances))])
        for number, data in enumerate(instances):
            assert await target.fetch(STUDY, SERIES, sop(number)) == data
        assert {one.answer for one in await sending.deliveries()} == {"200"}


async def test_every_real_file_arrives_as_it_left(tmp_path: Path, dicom_files: list[Path]) -> None:
    async with (
        stow_site(tmp_path / "target") as target,
        source(tmp_path / "source", target.url) as sending,
    ):
        events = 0
        for at in range(0, len(dicom_files), 40):
            batch = [path.read_bytes() for path in dicom_files[at : at + 40]]
            response = await sending.site.send(*batch)
            events += sum(item["00091001"]["Value"][0] != "UNCHANGED" for item in response.stored)
        await sending.all_delivered(events)
        there, here = await target.recorded(), await sending.site.recorded()
        assert set(there) == set(here)
        different = [uid for uid, row in here.items() if row.sha256 != there[uid].sha256]
        # Those without a Part 10 header, which left with one.
        assert 0 < len(different) < 0.2 * len(here)
        for uid in different:
            uids = await _uids(sending.site, uid)
            assert await target.fetch(*uids) == await sending.site.fetch(*uids)


async def _uids(site: StowSite, uid: str) -> tuple[str, str, str]:
    (found,) = await site.search(f"/instances?SOPInstanceUID={uid}")
    study, series = found["0020000D"]["Value"][0], found["0020000E"]["Value"][0]
    return study, series, uid


async def test_a_second_delivery_changes_nothing(tmp_path: Path, instances: list[bytes]) -> None:
    async with (
        stow_site(tmp_path / "target") as target,
        source(tmp_path / "source", target.url) as sending,
    ):
        await sending.site.send(instances[0])
        await sending.delivery("delivered")
        objects = await target.objects()
        assert (await sending.binding.deliver(event_of(sop(0)))).answer == "200"
        assert await target.objects() == objects


async def test_what_the_target_keeps_instead_is_a_dead_letter(
    tmp_path: Path, instances: list[bytes]
) -> None:
    keep = IntakeSettings(conflict_policy=ConflictPolicy.KEEP)
    async with (
        stow_site(tmp_path / "target", intake=keep) as target,
        source(tmp_path / "source", target.url) as sending,
    ):
        await target.send(instances[0].replace(b"1CT1", b"2CT2"))
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert entry.attempts == 1
        assert entry.answer is not None
        assert entry.answer.startswith("failure reason 0111H: 409: ")


async def test_what_a_target_will_never_take_is_a_dead_letter(
    tmp_path: Path, instances: list[bytes]
) -> None:
    small = DicomwebSettings(max_body=1000)
    async with (
        stow_site(tmp_path / "target", settings=small) as target,
        source(tmp_path / "source", target.url) as sending,
    ):
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert entry.answer is not None
        assert entry.answer.startswith("413: ")
        assert "at most 1000 bytes" in entry.answer


# --- what is sent


async def test_the_request_is_one_multipart_part_of_known_length(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path) as (sending, target):
        await sending.site.send(instances[0], traceparent=TRACEPARENT)
        await sending.delivery("delivered")
    (exchange,) = target.exchanges
    assert (exchange.method, exchange.path) == ("POST", "/studies")
    assert exchange.headers["accept"] == "application/dicom+json"
    assert exchange.headers["traceparent"] == TRACEPARENT
    assert "authorization" not in exchange.headers
    assert "transfer-encoding" not in exchange.headers
    kind, _, boundary = exchange.headers["content-type"].rpartition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    assert exchange.start == (
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + instances[0]
        + f"\r\n--{boundary}--\r\n".encode()
    )


async def test_without_a_trace_none_is_made_up(tmp_path: Path, instances: list[bytes]) -> None:
    async with both(tmp_path) as (sending, target):
        await sending.site.send(instances[0])
        await sending.delivery("delivered")
    assert "traceparent" not in target.exchanges[0].headers


@pytest.mark.parametrize(
    ("credentials", "authorization"),
    [
        (Credentials(TOKEN), f"Bearer {TOKEN}"),
        (Credentials(None, "user", "pass"), "Basic dXNlcjpwYXNz"),
    ],
)
async def test_credentials_go_into_the_authorization_header(
    tmp_path: Path, instances: list[bytes], credentials: Credentials, authorization: str
) -> None:
    async with both(tmp_path, credentials=credentials) as (sending, target):
        await sending.site.send(instances[0])
        await sending.delivery("delivered")
    assert target.exchanges[0].headers["authorization"] == authorization


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [("test", True), ("t.*", True), ("other,test", True), ("other", False), ("tes", False)],
)
async def test_only_selected_providers_instances_are_sent(
    tmp_path: Path, instances: list[bytes], selector: str, wanted: bool
) -> None:
    async with both(tmp_path, selector=selector) as (sending, target):
        await sending.site.send(instances[0])
        if wanted:
            await sending.delivery("delivered")
            assert len(target.exchanges) == 1
        else:
            await until(lambda: _has_read_the_log(sending), "the log was read to its end")
            assert await sending.deliveries() == []
            assert target.exchanges == []


async def _has_read_the_log(sending: Source) -> bool:
    def position(connection: object) -> bool:
        sql = "SELECT (SELECT max(seq) FROM change), (SELECT position FROM subscription)"
        last, read = connection.exec_driver_sql(sql).one()  # type: ignore[attr-defined]
        return bool(last and read >= last)

    return await sending.site.database.read(position)


# --- a target that does not take it now


def then_takes(*first: Script) -> Script:
    """A target that does something else for its first requests."""
    left = list(first)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if left else takes)(exchange)

    return script


def answers(status: int, body: bytes | dict[str, object] = b"", **headers: str) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.answer(status, body, **headers)

    return script


async def cuts(exchange: Exchange) -> None:
    await exchange.read(10_000)
    exchange.close(hard=True)


async def closes_without_answer(exchange: Exchange) -> None:
    await exchange.read()
    exchange.close()


async def closes_in_its_answer(exchange: Exchange) -> None:
    await exchange.read()
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await exchange.writer.drain()
    exchange.close()


async def speaks_no_http(exchange: Exchange) -> None:
    await exchange.read()
    exchange.writer.write(b"220 mail.example.org ESMTP\r\n")
    exchange.close()


TROUBLES = {
    "500": answers(500, b"stack trace"),
    "502": answers(502),
    "503": answers(503),
    "504": answers(504),
    "408": answers(408),
    "429": answers(429),
    "out of resources": answers(409, failed_response(sop(0), 0xA700)),
    "processing failure": answers(409, failed_response(sop(0), 0x0110)),
    "500 with a reason": answers(500, failed_response(sop(0), 0xC000)),
    "cut in the middle": cuts,
    "no answer": closes_without_answer,
    "half an answer": closes_in_its_answer,
    "no HTTP": speaks_no_http,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_may_pass_is_tried_again_until_it_has_passed(
    tmp_path: Path, instances: list[bytes], trouble: str
) -> None:
    script = then_takes(*[TROUBLES[trouble]] * 3)
    async with both(tmp_path, script) as (sending, target):
        await sending.site.send(instances[0])
        entry = await sending.delivery("delivered", attempts=4)
        assert (entry.attempts, entry.answer) == (4, "200")
        assert len(target.exchanges) == 4
        whole = target.exchanges[-1]
        assert whole.size == int(whole.headers["content-length"])


async def test_the_answer_of_a_failed_try_is_kept_in_the_ledger(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, answers(503, b"under maintenance")) as (sending, _):
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending", attempts=2)
        assert entry.answer == "503: under maintenance"


async def test_a_target_that_is_not_there_is_tried_until_it_is(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with scripted_target(takes) as target:
        port = target.port
    async with source(tmp_path, f"http://127.0.0.1:{port}") as sending:
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending", attempts=2)
        assert entry.answer is not None
        assert f"127.0.0.1:{port}" in entry.answer
        target = ScriptedTarget(takes)
        server = await asyncio.start_server(target.serve, "127.0.0.1", port)
        await sending.delivery("delivered")
        server.close()
        for exchange in target.exchanges:
            exchange.close(hard=True)
        await server.wait_closed()


async def test_a_host_that_does_not_exist_is_tried_again(tmp_path: Path) -> None:
    async with source(tmp_path, "http://name.invalid/dicom-web") as sending:
        with pytest.raises(TryAgainError, match=r"name\.invalid"):
            await sending.binding._target.request("GET", "http://name.invalid/x")


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(tmp_path: Path, instances: list[bytes], status: int) -> None:
    script = then_takes(answers(status, Retry_After="2"))
    patient = replace(SOON, longest=60.0)
    async with both(tmp_path, script, retry=patient) as (sending, target):
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending")
        assert entry.next_at is not None
        assert entry.next_at - entry.changed_at >= 2_000_000
        await sending.delivery("delivered")
        assert len(target.exchanges) == 2


async def test_retry_after_of_a_failure_for_now_is_honoured(
    tmp_path: Path, instances: list[bytes]
) -> None:
    script = answers(409, failed_response(sop(0), 0xA700), Retry_After="30")
    async with both(tmp_path, script, retry=replace(SOON, longest=60.0)) as (sending, _):
        await sending.site.send(instances[0])
        entry = await sending.delivery("pending")
        assert entry.next_at is not None
        assert entry.next_at - entry.changed_at >= 30_000_000


async def test_when_all_tries_are_used_up_it_is_a_dead_letter(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, answers(500, b"why"), retry=replace(SOON, attempts=3)) as (
        sending,
        _,
    ):
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead", attempts=3)
        assert entry.answer == "given up after 3 tries: 500: why"


# --- a target that will never take it


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 451])
async def test_a_4xx_is_a_dead_letter_with_the_targets_answer(
    tmp_path: Path, instances: list[bytes], status: int
) -> None:
    async with both(tmp_path, answers(status, b"the reason why")) as (sending, target):
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert (entry.attempts, entry.answer) == (1, f"{status}: the reason why")
        assert len(target.exchanges) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_told(
    tmp_path: Path, instances: list[bytes], status: int
) -> None:
    async with (
        scripted_target(takes) as elsewhere,
        both(
            tmp_path,
            answers(status, Location=f"{elsewhere.url}/studies"),
            credentials=Credentials(TOKEN),
        ) as (sending, _),
    ):
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert entry.answer == f"{status}: it is to be sent to {elsewhere.url}/studies instead."
        assert elsewhere.exchanges == []


@pytest.mark.parametrize("status", [401, 413, 503])
@pytest.mark.parametrize("closes", [True, False])
async def test_an_answer_before_the_body_was_taken_counts(
    tmp_path: Path, instances: list[bytes], status: int, closes: bool
) -> None:
    # Larger than what the kernel's buffers hold, so that the sender is in the middle of it.
    data = padded(instances[0], 32 << 20)

    async def refuses(exchange: Exchange) -> None:
        await exchange.read(1000)
        await exchange.answer(status, b"no")
        if closes:
            exchange.writer.write_eof()
        await exchange.read()

    async with both(tmp_path, then_takes(refuses)) as (sending, target):
        await sending.site.send(data)
        if status == 503:
            await sending.delivery("delivered", attempts=2)
            assert target.exchanges[-1].size > 32 << 20
        else:
            entry = await sending.delivery("dead")
            assert entry.answer == f"{status}: no"


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_success_without_a_body_is_believed(
    tmp_path: Path, instances: list[bytes], status: int
) -> None:
    async with both(tmp_path, answers(status)) as (sending, _):
        await sending.site.send(instances[0])
        assert (await sending.delivery("delivered")).answer == str(status)


async def test_a_202_that_did_not_store_the_instance_is_no_delivery(
    tmp_path: Path, instances: list[bytes]
) -> None:
    response = stored_response(sop(1)) | failed_response(sop(0), 0xA900)
    async with both(tmp_path, answers(202, response)) as (sending, _):
        await sending.site.send(instances[0])
        entry = await sending.delivery("dead")
        assert entry.answer is not None
        assert entry.answer.startswith("failure reason A900H: 202: ")


# --- a target that is slow


async def test_a_target_that_does_not_answer_is_given_up_and_tried_again(
    tmp_path: Path, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_target, "ANSWER_TIMEOUT", 0.2)

    async def is_silent(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.reader.read(1)

    async with both(tmp_path, then_takes(is_silent, is_silent)) as (sending, _):
        await sending.site.send(instances[0])
        await sending.delivery("delivered", attempts=3)


async def test_a_target_that_stops_reading_is_given_up_and_tried_again(
    tmp_path: Path, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_target, "IDLE_TIMEOUT", 0.3)
    data = padded(instances[0], 32 << 20)
    given_up = asyncio.Event()

    async def stops_reading(exchange: Exchange) -> None:
        await exchange.read(1000)
        await given_up.wait()
        exchange.close(hard=True)

    async with both(tmp_path, then_takes(stops_reading)) as (sending, _):
        await sending.site.send(data)
        entry = await sending.delivery("pending", attempts=1)

        async def is_told() -> bool:
            return (await sending.deliveries())[0].answer == "TimeoutError: timed out"

        await until(is_told, "the target is given up")
        given_up.set()
        assert entry.attempts == 1
        await sending.delivery("delivered", attempts=2)


async def test_a_target_that_reads_slowly_is_waited_for(
    tmp_path: Path, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_target, "IDLE_TIMEOUT", 1.0)
    data = padded(instances[0], 32 << 20)

    async def is_slow(exchange: Exchange) -> None:
        while exchange.size < int(exchange.headers["content-length"]):
            await exchange.read(1 << 20)
            await asyncio.sleep(0.05)  # 32 MiB: longer than the time-out
        await exchange.answer(200, stored_response(sop(0)))

    async with both(tmp_path, is_slow) as (sending, target):
        await sending.site.send(data)
        entry = await sending.delivery("delivered")
        assert entry.attempts == 1
        assert len(target.exchanges) == 1


# --- an instance that does not stay


async def test_what_was_replaced_meanwhile_goes_as_it_is_now(
    tmp_path: Path, instances: list[bytes]
) -> None:
    is_away = True
    digests: list[str] = []

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        if is_away:
            await exchange.answer(503)
            return
        digests.append(hashlib.sha256(_part(exchange)).hexdigest())
        await exchange.answer(200, stored_response(sop(0)))

    newer = instances[0].replace(b"1CT1", b"2CT2")
    async with both(tmp_path, script) as (sending, _):
        await sending.site.send(instances[0])
        await sending.delivery("pending")
        await sending.site.send(newer)
        is_away = False
        await sending.all_delivered(2)
    assert digests == [hashlib.sha256(newer).hexdigest()] * 2


def _part(exchange: Exchange) -> bytes:
    return exchange.start.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]


async def test_what_was_deleted_meanwhile_needs_no_delivery(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, answers(503)) as (sending, target):
        await sending.site.send(instances[0])
        await sending.delivery("pending")
        await sending.site.delete(STUDY)
        entry = await sending.delivery("delivered")
        assert entry.answer is not None
        assert entry.answer.startswith("gone: ")
        assert len(target.exchanges) >= 1


async def test_an_object_that_is_missing_is_waited_for(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, answers(503)) as (sending, _):
        await sending.site.send(instances[0])
        (name,) = await sending.site.objects()
        await sending.site.space.delete(name)
        with pytest.raises(TryAgainError, match="not in its space"):
            await sending.binding.deliver(event_of(sop(0)))


async def test_an_object_that_cannot_be_read_to_its_end_is_tried_again(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path, selector="nobody") as (sending, target):
        await sending.site.send(padded(instances[0], 8 << 20))
        (name,) = await sending.site.objects()

        async def loses_data(exchange: Exchange) -> None:
            await exchange.read(1000)
            os.truncate(sending.site.root / name, 5000)
            await exchange.read()

        target.script = loses_data
        with pytest.raises(TryAgainError, match="Input/output error"):
            await sending.binding.deliver(event_of(sop(0)))


async def test_events_that_name_nothing_of_this_site_are_dead_letters(
    tmp_path: Path, instances: list[bytes]
) -> None:
    async with both(tmp_path) as (sending, _):
        with pytest.raises(RefusedError, match="'other' is not part of this site"):
            await sending.binding.deliver(event_of(sop(0), space="other"))
        with pytest.raises(RefusedError, match="names no instance"):
            await sending.binding.deliver(event_of(sop(0), sop_instance_uid=None))
        assert (await sending.binding.deliver(event_of("1.2.3"))).answer.startswith("gone: ")


# --- secrets


@pytest.mark.parametrize(
    "trouble", ["500", "no answer", "no HTTP", "cut in the middle", "half an answer"]
)
async def test_credentials_are_in_no_log_and_no_answer_and_no_repr(
    tmp_path: Path, instances: list[bytes], trouble: str
) -> None:
    with capture_logs() as logs:
        async with (
            scripted_target(TROUBLES[trouble]) as target,
            source(
                tmp_path,
                target.url.replace("http://", "http://user:hidden-password@") + "/a-path",
            ) as with_url,
        ):
            await with_url.site.send(instances[0])
            from_url = await with_url.delivery("pending", attempts=2)
        folder = tmp_path / "token"
        async with both(folder, TROUBLES[trouble], credentials=Credentials(TOKEN)) as (sending, _):
            await sending.site.send(instances[0])
            from_token = await sending.delivery("pending", attempts=2)
    everything = f"{logs} {from_url} {from_token}"
    for secret in (TOKEN, "hidden-password", "a-path", "Authorization", "Bearer"):
        assert secret not in everything
    credentials = Credentials(TOKEN, "user", "hidden-password")
    for shown in (repr(credentials), str(credentials), repr(HttpTarget(credentials))):
        assert TOKEN not in shown
        assert "hidden" not in shown
        assert "user" not in shown

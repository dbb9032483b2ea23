"""Reports of storage commitment: made, sent, and tried again until the requester has taken them.

One task looks for requests that are due; each is worked on in a task of its own, a bounded number
at a time, and held in the database while it is. A request that was just taken is worked on at once,
and its report goes out on the association that it came on if that is still open, else on a new one
to the requester, in the role of an SCP (PS3.4 J.3.3, PS3.7 D.3.3.4). So does every later try,
whichever process makes it.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from imaging_ingestion.association.association import Association
from imaging_ingestion.association.error import AssociationError
from imaging_ingestion.association.services.commitment_report import (
    NO_SUCH_OBJECT_INSTANCE,
    Verdict,
    judge,
    report_of,
)
from imaging_ingestion.association.services.destination import Connect, Destinations
from imaging_ingestion.brokers.pause import pause
from imaging_ingestion.dicom.dataset_write import write_data_set
from imaging_ingestion.dimse.command import NEventReportRequest
from imaging_ingestion.dimse.negotiation import AcceptedContext
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import (
    DATA_SET_TRANSFER_SYNTAXES,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
)
from imaging_ingestion.dimse.status import StatusKind, describe, kind_of
from imaging_ingestion.events.retry import RetryPolicy
from imaging_ingestion.manifest import commitment
from imaging_ingestion.manifest.commitment import Claim, CommitmentRequest
from imaging_ingestion.manifest.database import Database
from imaging_ingestion.storage.space import Space

log = structlog.get_logger(__name__)

_MICROSECOND: Final = timedelta(microseconds=1)
_RELEASE_TIMEOUT: Final = 10.0  # seconds

Clock = Callable[[], int]  # nanoseconds since the epoch


@dataclass(frozen=True, slots=True)
class CommitmentSettings:
    """How reports are made and sent.

    `patience`: an instance that the manifest does not have yet is waited for so long after the
    request, for it may be recorded a moment after it was stored. `lease`: how long a request
    belongs to its process without a sign of life. `kept`: how long answered requests are kept.
    `ae_title` names us to requesters; None: as they called us.
    """

    ae_title: str | None = None
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(first=5.0))
    patience: timedelta = timedelta(seconds=5)
    lease: timedelta = timedelta(seconds=30)
    poll: timedelta = timedelta(seconds=5)
    grace: timedelta = timedelta(seconds=10)
    kept: timedelta = timedelta(days=30)
    at_once: int = 8


class _NotReportedError(Exception):
    """The requester has not taken the report; the message says why."""


class CommitmentReporter:
    """Reports on the requests for one space, in this process."""

    def __init__(
        self,
        database: Database,
        space: Space,
        destinations: Destinations,
        connect: Connect,
        settings: CommitmentSettings | None = None,
        clock: Clock = time.time_ns,
    ) -> None:
        self._database = database
        self._space = space
        self._destinations = destinations
        self._connect = connect
        self._settings = settings or CommitmentSettings()
        self._clock = clock
        self._random = random.SystemRandom()  # claims, jitter
        self._wake = asyncio.Event()
        self._stopping = False
        self._tasks: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
        self._in_hand: dict[int, tuple[Claim, asyncio.Task[None]]] = {}
        self._forget_at = 0

    def start(self) -> None:
        """Begin to work on what is due."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Take nothing more; wait for what is in hand, `grace` at most, and give back the rest."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def take(self, request: CommitmentRequest) -> Claim:
        """Make a request durable. Raises DuplicateTransactionError."""
        now = self._now()
        return await self._database.write(
            commitment.take_request,
            self._space.name,
            request,
            now,
            token=self._token(),
            until=now + self._lease,
        )

    def begin(self, claim: Claim, association: Association | None) -> None:
        """Work on a request, now that it is answered; the report may go by that association.

        If there is no room for it here, whoever has room begins once the claim has run out.
        """
        has_room = len(self._in_hand) < self._settings.at_once
        if self._tasks is not None and not self._stopping and has_room:
            task = self._tasks.create_task(self._work(claim, association))
            self._in_hand[claim.pk] = (claim, task)

    @property
    def _lease(self) -> int:
        return self._settings.lease // _MICROSECOND

    def _now(self) -> int:
        return self._clock() // 1000

    def _token(self) -> int:
        return self._random.getrandbits(63)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while not self._stopping:
                self._wake.clear()
                pause = self._settings.poll.total_seconds()
                try:
                    pause = min(pause, await self._turn())
                except Exception as error:  # noqa: BLE001 - logged, and tried again
                    self._log_failure("commitment.turn_failed", error)
                await self._sleep(pause)
            await self._finish()
            self._tasks = None

    async def _turn(self) -> float:
        """Claim what is due and begin; in how many seconds there is more to do."""
        now = self._now()
        if now >= self._forget_at:
            before = now - self._settings.kept // _MICROSECOND
            while await self._database.write(commitment.forget, self._space.name, before):
                pass
            self._forget_at = now + timedelta(hours=1) // _MICROSECOND
        room = self._settings.at_once - len(self._in_hand)
        due = await self._database.read(commitment.next_due, self._space.name)
        if due is None or not room:
            return self._settings.poll.total_seconds()
        if due > now:
            return (due - now) / 1_000_000
        claims = await self._database.write(
            commitment.claim_due,
            self._space.name,
            now,
            room,
            token=self._token(),
            until=now + self._lease,
        )
        for claim in claims:
            self.begin(claim, None)
        return 0.0 if claims else self._settings.poll.total_seconds()

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            await pause(self._wake, seconds)

    async def _finish(self) -> None:
        if not self._in_hand:
            return
        _, late = await asyncio.wait(
            [task for _, task in self._in_hand.values()],
            timeout=self._settings.grace.total_seconds(),
        )
        given_up = [claim for claim, task in self._in_hand.values() if task in late]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            try:
                await self._database.write(commitment.release, given_up, self._now())
            except Exception as error:  # noqa: BLE001 - logged; their claims will run out
                self._log_failure("commitment.release_failed", error)

    async def _work(self, claim: Claim, association: Association | None) -> None:
        """Try to report on one request, and write down how that ended."""
        renewing = asyncio.create_task(self._renew(claim))
        try:
            try:
                answer = await self._report(claim, association)
                state, next_at = commitment.REPORTED, None
            except _NotReportedError as error:
                answer = str(error)
                state, next_at = self._after_failure(claim)
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                self._log_failure("commitment.failed", error)
                answer = type(error).__name__
                state, next_at = self._after_failure(claim)
            await self._database.write(
                commitment.finish, claim, state, self._now(), answer=answer, next_at=next_at
            )
            log.info(
                f"commitment.{state}",
                space=self._space.name,
                transaction_uid=claim.request.transaction_uid,
                requester=claim.request.requester,
                attempt=claim.attempt,
                answer=answer,
            )
        except Exception as error:  # noqa: BLE001 - logged; the claim will run out
            self._log_failure("commitment.finish_failed", error)
        finally:
            if self._in_hand[claim.pk][0] is claim:
                del self._in_hand[claim.pk]
            self._wake.set()
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _renew(self, claim: Claim) -> None:
        """Hold the claim for as long as the work takes."""
        while True:
            await asyncio.sleep(self._settings.lease.total_seconds() / 3)
            try:
                held = await self._database.write(
                    commitment.renew, claim, self._now() + self._lease
                )
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                self._log_failure("commitment.renew_failed", error)
                continue
            if not held:
                return  # somebody else has taken it: two reports are better than none

    def _after_failure(self, claim: Claim) -> tuple[str, int | None]:
        delay = self._settings.retry.delay(claim.attempt, random=self._random.random())
        if delay is None:
            return commitment.DEAD, None
        return commitment.PENDING, self._now() + int(delay * 1_000_000)

    async def _report(self, claim: Claim, association: Association | None) -> str:
        """Send the report; the requester's answer in words. Raises _NotReportedError."""
        verdicts = await self._judge(claim)
        if association is not None and association.is_open:
            context = association.agreement.context_for(STORAGE_COMMITMENT_PUSH_MODEL, as_scu=False)
            if context is not None:
                try:
                    return await self._send(association, context, claim, verdicts)
                except AssociationError as error:
                    log.info(
                        "commitment.association_ended",
                        requester=claim.request.requester,
                        error=str(error),
                    )
        return await self._call(claim, verdicts)

    async def _judge(self, claim: Claim) -> list[Verdict]:
        """The verdicts, once everything is recorded that is going to be."""
        deadline = claim.requested_at + self._settings.patience // _MICROSECOND
        while True:
            verdicts = await judge(self._space, self._database, claim.request.items)
            missing = any(v.failure_reason == NO_SUCH_OBJECT_INSTANCE for v in verdicts)
            left = (deadline - self._now()) / 1_000_000
            if not missing or left <= 0 or self._stopping:
                return verdicts
            await asyncio.sleep(min(left, 0.5))

    async def _call(self, claim: Claim, verdicts: list[Verdict]) -> str:
        """Send the report on an association of our own."""
        request = claim.request
        destination = self._destinations.find(request.requester)
        if destination is None:
            raise _NotReportedError(f"{request.requester} is not named by this site")
        proposal = Proposal(
            STORAGE_COMMITMENT_PUSH_MODEL,
            DATA_SET_TRANSFER_SYNTAXES,
            as_scu=False,
            as_scp=True,
        )
        title = self._settings.ae_title or request.called
        try:
            association = await self._connect(destination, [proposal], calling_ae_title=title)
        except AssociationError as error:
            raise _NotReportedError(f"no association: {error}") from error
        try:
            agreement = association.agreement
            # Some requesters do not answer the role selection, and take the report all the same.
            context = agreement.context_for(
                STORAGE_COMMITMENT_PUSH_MODEL, as_scu=False
            ) or agreement.context_for(STORAGE_COMMITMENT_PUSH_MODEL)
            if context is None:
                raise _NotReportedError("the requester does not accept storage commitment")
            answer = await self._send(association, context, claim, verdicts)
            await association.release(_RELEASE_TIMEOUT)
        except AssociationError as error:
            raise _NotReportedError(f"the association ended: {error}") from error
        finally:
            if association.is_open:
                await association.abort()
        return answer

    async def _send(
        self,
        association: Association,
        context: AcceptedContext,
        claim: Claim,
        verdicts: list[Verdict],
    ) -> str:
        """Send the report; the answer in words. Raises AssociationError and _NotReportedError."""
        title = self._settings.ae_title or claim.request.called
        event_type, information = report_of(claim.request.transaction_uid, title, verdicts)
        report = NEventReportRequest(
            message_id=0,  # the association gives it one
            affected_sop_class_uid=STORAGE_COMMITMENT_PUSH_MODEL,
            affected_sop_instance_uid=STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
            event_type_id=event_type,
        )
        data_set = await asyncio.to_thread(write_data_set, information, context.transfer_syntax)
        async with aclosing(association.request(context.context_id, report, data_set)) as answers:
            async for answer in answers:
                code = answer.response.status
                if kind_of(code) not in (StatusKind.SUCCESS, StatusKind.WARNING):
                    raise _NotReportedError(f"the requester answered {describe(code)}")
                return describe(code)
        raise _NotReportedError("the requester did not answer")

    def _log_failure(self, event: str, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        log.error(
            event,
            space=self._space.name,
            error=type(error).__name__,
            at=f"{where.filename}:{where.lineno}",
        )

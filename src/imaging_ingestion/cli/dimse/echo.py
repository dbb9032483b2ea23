"""`echo`: does an application entity answer (PS3.4 annex A)?"""

from __future__ import annotations

import json
import time

from imaging_ingestion.cli.dimse.peer import DimseOptions, Peer
from imaging_ingestion.cli.dimse.session import FailedError, associated, run
from imaging_ingestion.cli.terminal import plain
from imaging_ingestion.dimse.command import CEchoRequest
from imaging_ingestion.dimse.requestor import Proposal
from imaging_ingestion.dimse.sop_class import DATA_SET_TRANSFER_SYNTAXES, VERIFICATION
from imaging_ingestion.dimse.status import SUCCESS, describe


def echo(to: str, options: DimseOptions, *, as_json: bool) -> None:
    """Send one C-ECHO and show the answer."""
    answer = run(_echo(to, options), to)
    if as_json:
        print(json.dumps(answer))
        return
    who = answer["implementation_version_name"] or answer["implementation_class_uid"]
    print(plain(f"{to} answers in {answer['milliseconds']} ms ({who})"))


async def _echo(to: str, options: DimseOptions) -> dict[str, object]:
    proposal = Proposal(VERIFICATION, DATA_SET_TRANSFER_SYNTAXES)
    async with associated(Peer.parse(to), options, [proposal]) as association:
        agreement = association.agreement
        context = agreement.context_for(VERIFICATION)
        if context is None:
            raise FailedError(f"{to} accepts associations, but not for verification")
        request = CEchoRequest(message_id=0, affected_sop_class_uid=VERIFICATION)
        started = time.perf_counter()
        async for answer in association.request(context.context_id, request):
            status = answer.response.status
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        if status != SUCCESS:
            raise FailedError(f"{to} answers {describe(status)}")
        return {
            "status": f"{status:04X}",
            "milliseconds": milliseconds,
            "implementation_class_uid": agreement.peer_implementation_class_uid,
            "implementation_version_name": agreement.peer_implementation_version_name,
            "max_pdu_length": agreement.max_sent_pdu_length,
        }

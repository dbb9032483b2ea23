"""How an association can fail, for whoever wanted something from it."""

from __future__ import annotations

from imaging_ingestion.dimse.error import describe_abort
from imaging_ingestion.dimse.event import Aborted, AbortOrigin
from imaging_ingestion.dimse.pdu import AssociateReject
from imaging_ingestion.dimse.rejection import describe_rejection, is_transient


class AssociationError(Exception):
    """The association is not there, or not any more; the message says why.

    `is_transient`: the same may well succeed later.
    """

    is_transient = True


class NotConnectedError(AssociationError):
    """The peer cannot be reached, or TLS with it failed."""


class AssociationRejectedError(AssociationError):
    """The peer answered A-ASSOCIATE-RJ, for good or for now: see `is_transient`."""

    def __init__(self, reject: AssociateReject) -> None:
        super().__init__(describe_rejection(reject))
        self.reject = reject
        self.is_transient = is_transient(reject)


class AssociationAbortedError(AssociationError):
    """The association ended in the middle: by the peer, by us, or with its connection."""

    @classmethod
    def of(cls, aborted: Aborted, why: str | None = None) -> AssociationAbortedError:
        """What the upper layer told; `why`: what the link told."""
        match aborted.origin:
            case AbortOrigin.PEER:
                return cls(f"aborted {describe_abort(aborted.source, aborted.reason)} of the peer")
            case AbortOrigin.LOCAL:
                return cls(f"the peer broke the protocol: {aborted.error}")
            case AbortOrigin.CONNECTION:
                return cls(f"the connection was lost: {why}" if why else "the connection was lost")


class AssociationReleasedError(AssociationError):
    """The association was released, or never asked for: nothing more goes over it."""


class PeerTimeoutError(AssociationError):
    """The peer did not do in time what was its turn to do."""


class DataSetTooLongError(Exception):
    """A data set that is to be held whole is longer than that allows; `limit` in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the data set is longer than {limit} bytes")
        self.limit = limit

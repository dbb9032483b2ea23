"""What went wrong in an object store, as the port's errors.

The library's own messages have URLs in them (with the signature, where access is by signed URL)
and whole answers. Ours say what was being done, the store's own code and nothing secret; the
library's error is not kept as their cause, or it would be logged with them.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from imaging_ingestion.storage.space import (
    ObjectMissingError,
    SpaceDeniedError,
    SpaceFullError,
    SpaceMissingError,
    SpaceUnavailableError,
)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w{1,40})")
#: What a store says when it, or our part of it, has no room: S3's own, Swift, Ceph, MinIO, Azure.
_FULL = re.compile(
    r"EntityTooLarge|QuotaExceeded|BucketQuota|StorageFull|InsufficientStorage|CapacityExceed", re.I
)
#: Where the library goes for the credentials of the environment.
_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google|/oauth2|oauth2\.|[Cc]redential")
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_BUSY = frozenset({"SlowDown", "ServerBusy", "RequestLimitExceeded", "TooManyRequests"})
_OURS = (
    ObjectMissingError,
    SpaceDeniedError,
    SpaceFullError,
    SpaceMissingError,
    SpaceUnavailableError,
)
_FAULTS = (  # in the library's error, and in words
    ("dns error", "the host is not known"),
    ("kind: ConnectionRefused", "the connection was refused"),
    ("kind: ConnectionReset", "the connection was cut"),
    ("IncompleteMessage", "the connection was cut"),
    ("kind: BrokenPipe", "the connection was cut"),
    ("TimedOut", "there was no answer in time"),
    ("timed out", "there was no answer in time"),
)


@contextmanager
def port_errors(place: str, doing: str) -> Iterator[None]:
    """Whatever the library raises inside becomes an error of the port.

    `place` is the space in words, `doing` what is being done ("writing 'a/b'"). Raises
    ObjectMissingError, SpaceFullError, SpaceDeniedError, SpaceMissingError, SpaceUnavailableError,
    and OSError for what is none of these.
    """
    try:
        yield
    except _OURS:
        raise
    except (BaseError, OSError) as error:
        raise in_port_terms(error, place, doing) from None


def in_port_terms(error: Exception, place: str, doing: str) -> OSError | ObjectMissingError:
    """The port's error for one of the library's."""
    text = str(error)
    found_status, found_code = _STATUS.search(text), _CODE.search(text)
    status = int(found_status[1]) if found_status else None
    code = found_code[1] if found_code else None
    said = " ".join(str(word) for word in (status, code) if word is not None) or "no answer"
    start = f"{place}: {doing}: "
    if _CREDENTIALS.search(text.partition("\n")[0]):
        return SpaceDeniedError(errno.EACCES, f"{start}no credentials could be had ({said})")
    if code in _NO_BUCKET:
        return SpaceMissingError(errno.ENOENT, f"{start}there is none of that name ({said})")
    if status in {413, 507} or (code is not None and _FULL.search(code)):
        return SpaceFullError(errno.ENOSPC, f"{start}it is full ({said})")
    if isinstance(error, FileNotFoundError) or status == 404:
        return ObjectMissingError(f"{place} has no object: {doing} ({said})")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in {401, 403}:
        return SpaceDeniedError(errno.EACCES, f"{start}access was denied ({said})")
    if isinstance(error, PreconditionError):
        return OSError(errno.ESTALE, f"{start}it was replaced or deleted meanwhile ({said})")
    if status in {408, 429, 503} or code in _BUSY:
        return SpaceUnavailableError(errno.EBUSY, f"{start}the store is too busy ({said})")
    if status is not None:
        kind = SpaceUnavailableError if status >= 500 else OSError
        return kind(errno.EIO, f"{start}the store answered {said}")
    if (
        "error loading credential" in text.lower()
        or "credential" in text.partition("\n")[0].lower()
    ):
        return SpaceDeniedError(errno.EACCES, f"{start}no credentials could be had")
    return SpaceUnavailableError(errno.EIO, f"{start}{_fault(text)}")


def is_past_the_end(error: BaseException) -> bool:
    """Whether a range began at or after the object's end, as every range of an empty one does."""
    return isinstance(error, BaseError) and "status code: 416" in str(error)


def _fault(text: str) -> str:
    certificate = _CERTIFICATE.search(text)
    if certificate:
        return f"the server's certificate is not trusted ({certificate[1]})"
    return next((words for sign, words in _FAULTS if sign in text), "the connection failed")

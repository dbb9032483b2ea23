"""What stores answer, in the port's words; those that real ones give: test_object_store_access."""

from __future__ import annotations

import traceback

import pytest
from obstore.exceptions import (
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from imaging_ingestion.storage.cloud_errors import port_errors
from imaging_ingestion.storage.space import (
    ObjectMissingError,
    SpaceDeniedError,
    SpaceFullError,
    SpaceMissingError,
    SpaceUnavailableError,
)


def answered(status: str, code: str) -> str:
    """As the library tells it."""
    return (
        "Generic S3 error: Error performing PUT https://store.example/b/o?sig=hidden in 3.9ms - "
        f"Server returned non-2xx status code: {status}: <?xml version='1.0'?>\n"
        f"<Error><Code>{code}</Code><Message>hidden</Message></Error>\n\nDebug source:\n…"
    )


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (GenericError(answered("400 Bad Request", "EntityTooLarge")), SpaceFullError, "is full"),
        (PermissionDeniedError(answered("403 F", "QuotaExceeded")), SpaceFullError, "is full"),
        (GenericError(answered("507 I", "XMinioStorageFull")), SpaceFullError, "is full"),
        (GenericError(answered("400 B", "XMinioAdminBucketQuotaExceeded")), SpaceFullError, "full"),
        (FileNotFoundError(answered("404 N", "NoSuchBucket")), SpaceMissingError, "none of that"),
        (GenericError(answered("404 N", "ContainerNotFound")), SpaceMissingError, "none of that"),
        (FileNotFoundError(answered("404 N", "NoSuchKey")), ObjectMissingError, "has no object"),
        (PermissionDeniedError(answered("403 F", "AccessDenied")), SpaceDeniedError, "was denied"),
        (UnauthenticatedError(answered("401 U", "NoAuth")), SpaceDeniedError, "was denied (401"),
        (
            PreconditionError(answered("412 P", "PreconditionFailed")),
            OSError,
            "replaced or deleted",
        ),
        (GenericError(answered("503 S", "SlowDown")), SpaceUnavailableError, "too busy (503 Slow"),
        (GenericError(answered("503 S", "ServerBusy")), SpaceUnavailableError, "too busy"),
        (GenericError(answered("429 T", "Whatever")), SpaceUnavailableError, "too busy"),
        (GenericError(answered("500 I", "InternalError")), SpaceUnavailableError, "answered 500"),
        (GenericError(answered("400 B", "InvalidArgument")), OSError, "answered 400 InvalidArg"),
        (
            GenericError("Error performing PUT http://169.254.169.254/latest/api/token in 5s - …"),
            SpaceDeniedError,
            "no credentials could be had",
        ),
        (
            GenericError("… - HTTP error: error sending request\n… kind: ConnectionRefused …"),
            SpaceUnavailableError,
            "the connection was refused",
        ),
        (GenericError("something new, hidden"), SpaceUnavailableError, "the connection failed"),
        (OSError("something new, hidden"), SpaceUnavailableError, "the connection failed"),
    ],
)
def test_what_a_store_answers_is_told_in_the_port_s_words_and_nothing_secret(
    error: BaseError | OSError, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as told, port_errors("space 'ct' (bucket 'b')", "writing 'a/b'"):
        raise error
    assert type(told.value) is kind
    assert words in str(told.value)
    assert "space 'ct' (bucket 'b')" in str(told.value)
    assert "writing 'a/b'" in str(told.value)
    shown = "".join(traceback.format_exception(told.value))
    assert "hidden" not in shown
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__


@pytest.mark.parametrize(
    "error", [SpaceFullError(28, "x"), ObjectMissingError("x"), ValueError("x"), KeyError("x")]
)
def test_what_is_the_port_s_already_or_a_fault_of_ours_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as told, port_errors("space", "reading"):
        raise error
    assert told.value is error

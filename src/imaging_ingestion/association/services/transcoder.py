"""What a sender needs where a peer does not take the transfer syntax an instance is in.

`transcoding.transcoder.Transcoder` is one: codecs run in processes of their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Transcoder(Protocol):
    """Brings data sets into other transfer syntaxes, losing nothing of what is there."""

    def targets(self, transfer_syntax_uid: str) -> Sequence[str]:
        """What a data set in that transfer syntax can be brought into, the best first."""

    def converted(
        self, data_set: AsyncIterator[bytes], source_uid: str, target_uid: str
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The data set, as it streams, in the transfer syntax `target_uid`.

        Raises TranscodeError if it cannot be converted and WorkerError if that may pass: on entry,
        before anything has been sent, where pixels are decoded or encoded.
        """

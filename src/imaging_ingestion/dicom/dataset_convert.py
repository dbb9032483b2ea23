"""A data set from one transfer syntax into another as it streams, deflate and all (PS3.5 annex A).

Where both say the same of VRs and byte order, the bytes of the data set stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from imaging_ingestion.dicom.header import MalformedError, TruncatedError
from imaging_ingestion.dicom.reencode import Buffer, Changes, Hole, Piece, Reencoder
from imaging_ingestion.dicom.transfer_syntax import encoding_of, is_encapsulated

_INFLATE_PIECE: Final = 1 << 18  # bytes


class DataSetConverter:
    """Converts one data set: `feed` it all, then `finish`; take every piece before the next call.

    Raises MalformedError and TruncatedError.
    """

    def __init__(self, source_uid: str, target_uid: str, changes: Changes | None = None) -> None:
        """The transfer syntaxes by UID. Pixel Data is only touched by `changes`."""
        source, target = encoding_of(source_uid), encoding_of(target_uid)
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if source.deflated else None
        self._deflate = (
            zlib.compressobj(wbits=-zlib.MAX_WBITS, memLevel=9) if target.deflated else None
        )
        self._deflated = 0
        same = (source.implicit_vr, source.big_endian) == (target.implicit_vr, target.big_endian)
        takes_fragments = is_encapsulated(target_uid)
        self._reencoder = (
            None
            if same and not changes and is_encapsulated(source_uid) == takes_fragments
            else Reencoder(source, target, changes or Changes(), takes_fragments=takes_fragments)
        )

    def feed(self, data: Buffer) -> Iterator[Piece]:
        """The pieces that are ready once `data` has come."""
        if self._inflate is None:
            yield from self._out(data)
            return
        pending: Buffer = data
        try:
            while pending and not self._inflate.eof:
                piece = self._inflate.decompress(pending, _INFLATE_PIECE)
                pending = self._inflate.unconsumed_tail
                yield from self._out(piece)
        except zlib.error as error:
            raise MalformedError("the deflated data set cannot be inflated") from error

    def finish(self) -> Iterator[Piece]:
        """The last pieces."""
        if self._inflate is not None:
            if not self._inflate.eof:
                yield from self._out(self._inflate.flush())
            if not self._inflate.eof:
                raise TruncatedError("the deflated data set ends before its last block")
        if self._reencoder is not None:
            for piece in self._reencoder.finish():
                yield from self._put(piece)
        if self._deflate is not None:
            rest = self._deflate.flush()
            # PS3.5 A.5: a single NULL byte makes it even.
            yield rest + b"\0" if (self._deflated + len(rest)) % 2 else rest

    def put(self, data: Buffer) -> Iterator[Buffer]:
        """Bytes of the caller's own, at a hole: in the target's encoding, not deflated yet."""
        for piece in self._put(data):
            assert not isinstance(piece, Hole)
            yield piece

    def _out(self, data: Buffer) -> Iterator[Piece]:
        if self._reencoder is None:
            yield from self._put(data)
            return
        for piece in self._reencoder.receive(data):
            yield from self._put(piece)

    def _put(self, piece: Piece) -> Iterator[Piece]:
        if self._deflate is None or isinstance(piece, Hole):
            yield piece
            return
        deflated = self._deflate.compress(piece)
        self._deflated += len(deflated)
        if deflated:
            yield deflated

"""Turning stored words to little endian while they stream by (PS3.5 7.3, PS3.18 8.7.3.3)."""

from __future__ import annotations

#: Bytes that change their order together, by VR (PS3.5 6.2); every other VR has single bytes.
_WORD_SIZES = {
    **dict.fromkeys(("OW", "US", "SS", "AT"), 2),
    **dict.fromkeys(("OF", "OL", "FL", "UL", "SL"), 4),
    **dict.fromkeys(("OD", "OV", "FD", "UV", "SV"), 8),
}


def word_size(vr: str) -> int:
    """Bytes of a word of this VR; 1 if byte order does not touch it."""
    return _WORD_SIZES.get(vr, 1)


class WordSwap:
    """Reverses the bytes of each word of `size` bytes in a stream of pieces of any length."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest = b""

    def receive(self, piece: bytes) -> bytes:
        """The whole words there are, turned."""
        piece = self._rest + piece if self._rest else piece
        whole = len(piece) - len(piece) % self._size
        self._rest = piece[whole:]
        turned = bytearray(whole)
        for i in range(self._size):
            turned[i :: self._size] = piece[self._size - 1 - i : whole : self._size]
        return bytes(turned)

    def finish(self) -> bytes:
        """What is left of a value that is no whole number of words, as it is."""
        rest, self._rest = self._rest, b""
        return rest

"""A data set from one encoding into another as it streams: VRs and byte order (PS3.5 annex A).

Theory of operation. As in `dataset_scan`, a loop over a stack of frames: data sets, sequences, the
fragments of an encapsulated value. An element is written as soon as its value is there, a long
value as it comes, so the memory does not depend on the data set. Since VRs change the lengths,
sequences and items with something in them get undefined lengths, which are right whatever follows;
group lengths are left out (PS3.5 7.2).

What cannot be carried over: implicit VR has no room for the VR of private elements, so they come
back as UN, with their bytes as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from imaging_ingestion.dicom.byte_order import WordSwap, word_size
from imaging_ingestion.dicom.dataset_scan import UNDEFINED, ScanLimits
from imaging_ingestion.dicom.dictionary import vr_of
from imaging_ingestion.dicom.element_kind import IMPLICIT_FORM, ElementKind, kinds_for
from imaging_ingestion.dicom.element_write import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    Edit,
    ElementWriter,
)
from imaging_ingestion.dicom.header import MalformedError, TruncatedError
from imaging_ingestion.dicom.json_model import Kind
from imaging_ingestion.dicom.transfer_syntax import Encoding

_PIXEL_REPRESENTATION: Final = 0x00280103
_FOREVER: Final = 1 << 62
#: Longer values are passed on as they come.
_WHOLE: Final = 1 << 12

Buffer = bytes | memoryview


class Hole(NamedTuple):
    """Where the caller puts an element of its own; `path` as in `Header.bulk`."""

    path: str


Piece = Buffer | Hole


class EncapsulatedValueError(MalformedError):
    """An encapsulated value in a data set that is to be of a transfer syntax without such."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different. Data sets are named by the path of their values, "" is the root.

    `edits` are by data set and tag; None leaves the element out. `holes` are paths of elements.
    """

    edits: Mapping[str, Mapping[int, Edit | None]] = field(default_factory=dict)
    holes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.edits or self.holes)


class _Frame:
    """A data set, a sequence, or (without a path) the fragments of an encapsulated value."""

    __slots__ = ("edits", "end", "implicit", "is_data_set", "items", "path", "silent")

    def __init__(self, end: int, path: str, *, is_data_set: bool, implicit: bool) -> None:
        self.end = end  # offset at which it ends; _FOREVER if a delimiter ends it
        self.path = path  # of the values inside, or of the sequence itself
        self.is_data_set = is_data_set
        self.implicit = implicit  # and little endian, whatever the rest is
        self.silent = False  # not written
        self.items = 0
        self.edits: list[tuple[int, Edit | None]] = []


class Reencoder:
    """Reads elements of one encoding and writes them in another."""

    def __init__(
        self, source: Encoding, target: Encoding, changes: Changes, *, takes_fragments: bool
    ) -> None:
        self._limit = 2 * ScanLimits().depth
        self._kinds = kinds_for(implicit_vr=source.implicit_vr, big_endian=source.big_endian)
        # PS3.5 6.2.2: what a UN of undefined length holds is implicit VR little endian.
        self._implicit_kinds = kinds_for(implicit_vr=True, big_endian=False)
        self._source_is_big = source.big_endian
        self._writer = ElementWriter(target)
        self._changes = changes
        self._takes_fragments = takes_fragments
        self._buffer = b""
        self._base = 0  # of _buffer[0]
        self._out: list[Piece] = []
        self._passing = 0  # bytes of a long value still to come
        self._swap: WordSwap | None = None  # for them
        self._silent = False  # they are not written
        self._padding = False
        self._is_signed = False
        self._root = _Frame(_FOREVER, "", is_data_set=True, implicit=source.implicit_vr)
        self._root.edits = self._edits_of("")
        self._stack = [self._root]

    def receive(self, data: Buffer) -> list[Piece]:
        """The pieces that are ready."""
        buffer = self._buffer + bytes(data) if self._buffer else bytes(data)
        self._run(buffer)
        return self._taken()

    def finish(self) -> list[Piece]:
        """The last pieces."""
        self._run(self._buffer)  # what ends just here has not been closed yet
        if self._passing or len(self._stack) > 1 or self._buffer.strip(b"\0"):
            raise TruncatedError("the stream ends in the middle of the data set")
        self._insert(self._root, _FOREVER)
        return self._taken()

    def _taken(self) -> list[Piece]:
        out, self._out = self._out, []
        return out

    def _run(self, buffer: bytes) -> None:
        """Read what is all there, and keep the rest."""
        position: int | None = 0
        used = 0
        while position is not None:
            used = position
            if self._passing:
                position = self._pass_on(buffer, used)
                continue
            frame = self._stack[-1]
            at = self._base + used
            if at > frame.end:
                raise MalformedError("an element reaches beyond the end of its item")
            if at == frame.end:
                self._close()
            elif self._padding:
                if buffer[used:].strip(b"\0"):
                    raise MalformedError("bytes follow the padding after the data set")
                used = len(buffer)
                break
            elif frame.is_data_set:
                position = self._element(frame, buffer, used)
            else:
                position = self._item(frame, buffer, used)
        self._base += used
        self._buffer = buffer[used:]

    def _pass_on(self, buffer: bytes, position: int) -> int | None:
        """Write what has come of a long value; where it ends, None if nothing has come."""
        part = memoryview(buffer)[position : position + self._passing]
        if not part:
            return None
        self._passing -= len(part)
        if not self._silent:
            self._out.append(part if self._swap is None else self._swap.receive(bytes(part)))
            if not self._passing and self._swap is not None:
                self._out.append(self._swap.finish())
        if not self._passing:
            self._swap = None
        return position + len(part)

    def _element(self, frame: _Frame, buffer: bytes, position: int) -> int | None:
        """Read one element; where the next one is, None if it is not all there."""
        if len(buffer) - position < 8:
            return None
        kinds = self._implicit_kinds if frame.implicit else self._kinds
        head = buffer[position : position + kinds.key_bytes]
        order = "big" if kinds.big_endian else "little"
        kind = kinds.memo.get(head)
        if kind is None:
            if head[:4] in _SPECIAL:
                return self._special(frame, head[:4], position)
            kind = kinds.learn(head)
        if kind.form == 0:
            length = int.from_bytes(buffer[position + 6 : position + 8], order)  # type: ignore[arg-type]
            start = position + 8
        else:
            start = position + (8 if kind.form == IMPLICIT_FORM else 12)
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[start - 4 : start], order)  # type: ignore[arg-type]
        if length != UNDEFINED and self._base + start + length > frame.end:
            raise MalformedError(f"({kind.tag:08X}) reaches beyond the end of its item")
        is_sequence = kind.kind == Kind.SEQUENCE or (
            length == UNDEFINED and kind.vr in {"UN", "US or SS"}
        )
        path = f"{frame.path}{kind.tag:08X}"
        if is_sequence or length == UNDEFINED:
            if not is_sequence and kind.kind != Kind.BINARY:
                raise MalformedError(f"({kind.tag:08X}) of VR {kind.vr} has an undefined length")
            end = _FOREVER if length == UNDEFINED else self._base + start + length
            if is_sequence:
                self._begin_sequence(frame, kind, path, end, is_empty=length == 0)
            else:
                self._begin_fragments(frame, kind, path)
            return start
        if length <= _WHOLE:
            if len(buffer) < start + length:
                return None
            self._value(frame, kind, path, buffer[start : start + length])
            return start + length
        self._begin_long(frame, kind, path, length)
        return start

    def _special(self, frame: _Frame, head: bytes, position: int) -> int:
        """A delimiter or padding where an element should be."""
        if head == b"\0\0\0\0":
            if frame is not self._root or self._base + position == 0:
                raise MalformedError("(00000000) stands where an element should")
            self._padding = True
            return position
        is_item_end = head in _ITEM_ENDS
        if is_item_end and frame.end == _FOREVER and frame is not self._root:
            self._close()
        elif head in _ITEMS:
            raise MalformedError("(FFFEE000) stands where an element should")
        return position + 8  # others delimit nothing, and are left out

    def _vr(self, kind: ElementKind, length: int) -> str:
        """The VR to write; "US or SS" and the like resolved (PS3.5 annex A.1, PS3.3 C.7.6.3.1)."""
        vr = kind.vr
        if vr == "US or SS":
            # Look-up table data: OW says any length.
            is_table = "OW" in (vr_of(kind.tag) or "")
            vr = "OW" if is_table else "SS" if self._is_signed else "US"
        return self._writer.vr_for(vr, length)

    def _swap_for(self, kind: ElementKind, frame: _Frame, vr: str) -> WordSwap | None:
        """What turns a value's words; UN is little endian everywhere (PS3.5 6.2.2)."""
        is_big = self._source_is_big and not frame.implicit and kind.vr != "UN"
        wants_big = self._writer.big_endian and vr != "UN"
        size = word_size(kind.vr if vr == "UN" else vr)
        return WordSwap(size) if is_big != wants_big and size > 1 else None

    def _value(self, frame: _Frame, kind: ElementKind, path: str, value: bytes) -> None:
        tag = kind.tag
        if tag & 0xFFFF == 0 or self._is_changed(frame, tag, path):
            return
        vr = self._vr(kind, len(value))
        swap = self._swap_for(kind, frame, vr)
        if tag == _PIXEL_REPRESENTATION and frame is self._root:
            self._is_signed = value.strip(b"\0") == b"\x01"
        if swap is not None:
            value = swap.receive(value) + swap.finish()
        self._out.append(self._writer.head(tag, vr, len(value)) + value)

    def _begin_long(self, frame: _Frame, kind: ElementKind, path: str, length: int) -> None:
        self._passing = length
        self._silent = self._is_changed(frame, kind.tag, path)
        if not self._silent:
            vr = self._vr(kind, length)
            self._swap = self._swap_for(kind, frame, vr)
            self._out.append(self._writer.head(kind.tag, vr, length))

    def _begin_fragments(self, frame: _Frame, kind: ElementKind, path: str) -> None:
        fragments = _Frame(_FOREVER, "", is_data_set=False, implicit=False)
        fragments.silent = self._is_changed(frame, kind.tag, path)
        if not fragments.silent:
            if not self._takes_fragments:
                raise EncapsulatedValueError(f"({path}) is encapsulated")
            self._out.append(self._writer.head(kind.tag, kind.vr, UNDEFINED))
        self._stack.append(fragments)

    def _begin_sequence(
        self, frame: _Frame, kind: ElementKind, path: str, end: int, *, is_empty: bool
    ) -> None:
        if len(self._stack) > self._limit:
            raise MalformedError("sequences are nested too deeply")
        if self._is_changed(frame, kind.tag, path):
            raise MalformedError(f"({path}) is a sequence, which is not to be changed")
        if is_empty:
            self._out.append(self._writer.head(kind.tag, "SQ", 0))
            return
        self._out.append(self._writer.head(kind.tag, "SQ", UNDEFINED))
        implicit = frame.implicit or kind.vr == "UN"
        self._stack.append(_Frame(end, path, is_data_set=False, implicit=implicit))

    def _item(self, frame: _Frame, buffer: bytes, position: int) -> int | None:
        """Read the beginning of an item of a sequence, or of a fragment."""
        if len(buffer) - position < 8:
            return None
        is_big = self._source_is_big and not frame.implicit
        order = "big" if is_big else "little"
        group = int.from_bytes(buffer[position : position + 2], order)  # type: ignore[arg-type]
        element = int.from_bytes(buffer[position + 2 : position + 4], order)  # type: ignore[arg-type]
        length = int.from_bytes(buffer[position + 4 : position + 8], order)  # type: ignore[arg-type]
        tag = group << 16 | element
        position += 8
        if tag == SEQUENCE_DELIMITATION:
            self._close()
            return position
        at = self._base + position
        end = _FOREVER if length == UNDEFINED else at + length
        if tag != ITEM or (end != _FOREVER and end > frame.end):
            raise MalformedError(f"({tag:08X}) stands where an item should, or is too long")
        frame.items += 1
        if not frame.path:  # a fragment
            if length == UNDEFINED:
                raise MalformedError("a fragment has an undefined length")
            if not frame.silent:
                self._out.append(self._writer.item(length))
            self._passing, self._silent = length, frame.silent
            return position
        path = f"{frame.path}/{frame.items}/"
        edits = self._edits_of(path)
        if length == 0 and not edits:
            self._out.append(self._writer.item(0))
            return position
        self._out.append(self._writer.item())
        item = _Frame(end, path, is_data_set=True, implicit=frame.implicit)
        item.edits = edits
        self._stack.append(item)
        return position

    def _close(self) -> None:
        frame = self._stack.pop()
        if frame.is_data_set:
            self._insert(frame, _FOREVER)
            self._out.append(self._writer.delimitation(ITEM_DELIMITATION))
        elif not frame.silent:
            self._out.append(self._writer.delimitation(SEQUENCE_DELIMITATION))

    # ---- changes

    def _edits_of(self, path: str) -> list[tuple[int, Edit | None]]:
        """The edits of a data set, the last tag first."""
        edits = self._changes.edits.get(path)
        return sorted(edits.items(), reverse=True) if edits else []

    def _is_changed(self, frame: _Frame, tag: int, path: str) -> bool:
        """Whether an element is not written as it is; what stands instead has been written."""
        if frame.edits:
            self._insert(frame, tag)
            if frame.edits and frame.edits[-1][0] == tag:
                _, edit = frame.edits.pop()
                if edit is not None:
                    self._out.append(self._writer.element(tag, edit))
                return True
        if path in self._changes.holes:
            self._out.append(Hole(path))
            return True
        return False

    def _insert(self, frame: _Frame, before: int) -> None:
        """Write the edits of elements that are not there."""
        while frame.edits and frame.edits[-1][0] < before:
            tag, edit = frame.edits.pop()
            if edit is not None:
                self._out.append(self._writer.element(tag, edit))


_ITEM_ENDS = frozenset((b"\xfe\xff\x0d\xe0", b"\xff\xfe\xe0\x0d"))
_ITEMS = frozenset((b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"))
_SPECIAL = frozenset((*_ITEM_ENDS, *_ITEMS, b"\xfe\xff\xdd\xe0", b"\xff\xfe\xe0\xdd", b"\0\0\0\0"))

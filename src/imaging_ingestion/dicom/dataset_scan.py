"""The data set part of the scanner: elements to DICOM JSON, resumable at any byte.

Theory of operation. `receive(data)` appends to what was left over and runs a loop over a stack of
frames: a *data set* frame (the root, or an item) reads elements, a *sequence* frame reads item
headers, a *fragments* frame walks the items of an encapsulated value. The loop stops when the next
element is not all there, and goes on from its first byte when more has come; nothing is read twice,
nothing recurses. Bulk values are noted and skipped without being kept.
"""

from __future__ import annotations

from binascii import b2a_base64
from dataclasses import dataclass
from struct import Struct

from imaging_ingestion.dicom.charset import Charset, charset
from imaging_ingestion.dicom.element_kind import (
    BULK_VRS,
    IMPLICIT_FORM,
    ElementKind,
    ElementKinds,
    kinds_for,
)
from imaging_ingestion.dicom.header import (
    PIXEL_TAGS,
    BulkRange,
    HeaderTooLargeError,
    MalformedError,
    TruncatedError,
)
from imaging_ingestion.dicom.json_model import (
    PADDING,
    TEXT_ENCODERS,
    Kind,
    integer,
    json_attribute_tag,
    json_bulk,
    json_inline_binary,
    json_number,
    json_number_text,
    json_text,
    number,
    plain,
)
from imaging_ingestion.dicom.transfer_syntax import Encoding

UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_DELIMITATION = 0xFFFEE00D
_SEQUENCE_DELIMITATION = 0xFFFEE0DD
_PIXEL_REPRESENTATION = 0x00280103
_FOREVER = 1 << 62
_BULK_REFERENCE = 256  # bytes that it costs to know where a bulk value is
_STRAY_DELIMITERS = 1000  # a writer that got it wrong did so a few times
_TEXT = int(Kind.TEXT)
_BINARY = int(Kind.BINARY)
_NUMBER_TEXT = int(Kind.NUMBER_TEXT)
_INTEGER_TEXT = int(Kind.INTEGER_TEXT)


@dataclass(frozen=True, slots=True)
class ScanLimits:
    """What a header may cost. Sizes are bytes of JSON and of buffered input together."""

    header_bytes: int = 64 << 20
    depth: int = 64  # nested sequences
    elements: int = 2_000_000


class _Frame:
    """A data set, a sequence, or the fragments of an encapsulated value being read."""

    __slots__ = ("charset", "end", "fields", "implicit", "items", "key", "last", "path", "sorted")

    def __init__(self, end: int, charset_: Charset, path: str, *, implicit: bool) -> None:
        self.end = end  # offset at which it ends; _FOREVER if a delimiter ends it
        self.charset = charset_
        self.path = path  # of the values inside, for bulk references: "" or "54000100/1/"
        self.implicit = implicit  # inside a UN of undefined length, whatever the rest is
        self.key = b""  # of the sequence
        self.fields: dict[int, bytes] | None = None  # data set
        self.items: list[bytes] | None = None  # sequence; both None: fragments
        self.last = -1
        self.sorted = True


class DatasetScanner:
    """Reads one data set. `offset` is where it begins in the stream."""

    def __init__(self, encoding: Encoding, limits: ScanLimits, offset: int) -> None:
        self.bulk: dict[str, BulkRange] = {}
        self.raw: dict[int, bytes] = {}
        self.warnings: list[str] = []
        self.header_complete = False
        self.charset = charset(())
        self.big_endian = encoding.big_endian
        self._limits = limits
        self._kinds = kinds_for(implicit_vr=encoding.implicit_vr, big_endian=self.big_endian)
        self._implicit_kinds = kinds_for(implicit_vr=True, big_endian=self.big_endian)
        order = ">" if self.big_endian else "<"
        self._u16 = Struct(order + "H").unpack_from
        self._u32 = Struct(order + "I").unpack_from
        self._tag = Struct(order + "HH").unpack_from
        self._buffer = b""
        self._base = offset  # of _buffer[0]
        self._wanted = 0  # bytes in the buffer before it is worth looking again
        self._more: list[bytes] = []  # arrived meanwhile
        self._more_size = 0
        self._skip = 0  # bytes of a bulk value still to come
        self._padding = False  # nothing but zeros may follow
        self._size = 0
        self._elements = 0
        self._strays = 0  # delimiters
        self._root = _Frame(_FOREVER, self.charset, "", implicit=encoding.implicit_vr)
        self._root.fields = {}
        self._stack = [self._root]

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises ScanError."""
        size = len(data)
        if self._skip >= size:  # the hot path of pixel data
            self._skip -= size
            self._base += size
            return
        if self._skip:
            data = memoryview(data)[self._skip :]
            self._base += self._skip
            self._skip = 0
        self._more.append(bytes(data))
        self._more_size += len(data)
        if len(self._buffer) + self._more_size >= self._wanted:
            buffer = b"".join((self._buffer, *self._more)) if self._buffer else b"".join(self._more)
            self._more, self._more_size = [], 0
            self._wanted = 0
            used = self._run(buffer)
            self._base += used
            self._buffer = buffer[used:]

    def finish(self) -> dict[int, bytes]:
        """The top-level elements as JSON text, ascending. Raises TruncatedError."""
        rest = b"".join((self._buffer, *self._more))
        if not self._skip:  # what ends just here has not been closed yet
            rest = rest[self._run(rest) :]
        if self._skip or len(self._stack) > 1 or rest.strip(b"\0"):
            raise TruncatedError("the stream ends in the middle of the data set")
        return _ascending(self._root)

    @property
    def held(self) -> int:
        """Bytes kept so far: attributes, and input that waits for more."""
        return self._size + len(self._buffer) + self._more_size

    def elements(self) -> dict[int, bytes]:
        """The top-level elements read so far as JSON text, ascending."""
        return _ascending(self._root)

    def _run(self, buffer: bytes) -> int:
        """Read what is all there; how many bytes of the buffer are done with."""
        position = 0
        while True:
            frame = self._stack[-1]
            if self._base + position >= frame.end:
                if self._base + position > frame.end:
                    raise MalformedError("an element reaches beyond the end of its item")
                self._close()
                continue
            if self._padding:
                if buffer[position:].strip(b"\0"):
                    raise MalformedError("bytes follow the padding after the data set")
                return len(buffer)
            if frame.fields is not None:
                position, stay = self._elements_of(frame, buffer, position)
            elif frame.items is not None:
                position, stay = self._item_of(frame, buffer, position)
            else:
                position, stay = self._fragment_of(buffer, position)
            if stay:
                return position

    def _elements_of(self, frame: _Frame, buffer: bytes, position: int) -> tuple[int, bool]:
        """Read elements until the frame changes (False) or bytes are wanting (True)."""
        fields = frame.fields
        assert fields is not None
        kinds = self._implicit_kinds if frame.implicit else self._kinds
        memo, key_bytes = kinds.memo, kinds.key_bytes
        u16, u32 = self._u16, self._u32
        raw = self.raw if frame is self._root else {}
        last = frame.last
        end = len(buffer)
        limit = min(frame.end - self._base, end)
        encoders = TEXT_ENCODERS
        little = not self.big_endian
        first = position
        count = len(fields)
        # Every element of every instance passes here: locals instead of attributes, and the
        # commonest VRs inline, took the header of a CT from 0.47 to 0.26 ms (benchmarks/scan.py).
        try:
            while position < limit:
                if end - position < 8:
                    self._wanted = end - position + 8
                    return position, True
                head = buffer[position : position + key_bytes]
                kind = memo.get(head)
                if kind is None:
                    if head[:4] in _SPECIAL:
                        done = self._delimiter(frame, buffer, position)
                        return (position + 8, False) if done else (position, False)
                    kind = self._learn(kinds, head)
                tag, what, form, key, value_key, large_above, _ = kind
                if form == 0:
                    (length,) = u16(buffer, position + 6)
                    start = position + 8
                elif form == 2:
                    (length,) = u32(buffer, position + 4)
                    start = position + 8
                else:
                    start = position + 12
                    if end < start:
                        self._wanted = end - position + 12
                        return position, True
                    (length,) = u32(buffer, position + 8)
                if length > large_above:
                    if tag <= last:
                        frame.sorted = False
                    else:
                        last = tag
                    position = self._large(frame, kind, buffer, start, length)
                    first += position - start  # a bulk value's bytes are not kept
                    if self._skip or frame is not self._stack[-1]:
                        return position, bool(self._skip)
                    continue
                stop = start + length
                if stop > end:
                    self._wanted = stop - position
                    return position, True
                if tag <= last:
                    frame.sorted = False
                else:
                    last = tag
                value = buffer[start:stop]
                raw[tag] = value
                position = stop
                if not length:
                    fields[tag] = key + b"}"
                elif what == _TEXT:
                    value = value.rstrip(PADDING)
                    if value and plain(value):
                        fields[tag] = value_key + b'"' + value + b'"]}'
                    else:
                        fields[tag] = json_text(key, value, frame.charset)
                elif what == _NUMBER_TEXT:
                    value = value.strip(PADDING)
                    if number(value):
                        fields[tag] = value_key + value + b"]}"
                    else:
                        fields[tag] = json_number_text(key, value, frame.charset)
                elif what == _INTEGER_TEXT and integer(value := value.strip(PADDING)):
                    fields[tag] = value_key + value + b"]}"
                elif what == _BINARY and little:
                    fields[tag] = value_key + b2a_base64(value, newline=False) + b'"}'
                elif what in encoders:
                    fields[tag] = encoders[what](key, value, frame.charset)
                else:
                    text = self._other(frame, kind, value)
                    if text:
                        fields[tag] = text
            return position, limit == end and frame.end - self._base > end
        finally:
            frame.last = last
            self._account(position - first, len(fields) - count)

    def _learn(self, kinds: ElementKinds, head: bytes) -> ElementKind:
        kind = kinds.learn(head)
        if not kinds.implicit_vr and kind.form == 2:
            self.warnings.append(f"({kind.tag:08X}) has no VR; it is read as implicit VR")
        return kind

    def _other(self, frame: _Frame, kind: ElementKind, value: bytes) -> bytes:
        """The JSON of a short value that is no text; empty if it is to be left out."""
        what = kind.kind
        if what == Kind.NUMBER:
            return json_number(kind.key, kind.vr, value, self.big_endian)
        if what == Kind.BINARY:
            return json_inline_binary(kind.key, kind.vr, value, self.big_endian)
        if what == Kind.ATTRIBUTE_TAG:
            return json_attribute_tag(kind.key, value, self.big_endian)
        if what == Kind.AMBIGUOUS:
            vr = self._resolved_vr()
            key = kind.key[: -len(kind.vr) - 1] + vr.encode() + b'"'
            return json_number(key, vr, value, self.big_endian)
        if what == Kind.CHARACTER_SET:
            terms = tuple(t.strip(" \0") for t in value.decode("latin_1").split("\\"))
            frame.charset = charset(terms if any(terms) else ())
            if frame is self._root:
                self.charset = frame.charset
            return kind.key + (b',"Value":["ISO_IR 192"]}' if any(terms) else b"}")
        return b""

    def _resolved_vr(self) -> str:
        """US or SS, as Pixel Representation says (PS3.5 annex A.1, PS3.3 C.7.6.3.1)."""
        return "SS" if self.raw.get(_PIXEL_REPRESENTATION, b"\0").strip(b"\0") == b"\x01" else "US"

    def _large(
        self, frame: _Frame, kind: ElementKind, buffer: bytes, start: int, length: int
    ) -> int:
        """Begin a sequence, fragments, or a bulk value; the position after what was taken."""
        tag = kind.tag
        end = _FOREVER if length == UNDEFINED else self._base + start + length
        if end > frame.end and end != _FOREVER:
            raise MalformedError(f"({tag:08X}) reaches beyond the end of its item")
        is_sequence = kind.kind == Kind.SEQUENCE or (
            length == UNDEFINED and kind.vr in {"UN", "US or SS"}
        )
        if is_sequence:
            if len(self._stack) > 2 * self._limits.depth:
                raise MalformedError(
                    f"sequences are nested deeper than {self._limits.depth} levels"
                )
            sequence = _Frame(
                end,
                frame.charset,
                f"{frame.path}{tag:08X}",
                implicit=frame.implicit or kind.vr == "UN",
            )
            sequence.items = []
            sequence.key = kind.key if kind.vr == "SQ" else b'"%08X":{"vr":"SQ"' % tag
            self._stack.append(sequence)
            return start
        if frame is self._root and tag in PIXEL_TAGS:
            self.header_complete = True
        path = f"{frame.path}{tag:08X}"
        assert frame.fields is not None
        if length == 0:
            frame.fields[tag] = kind.key + b"}"
            return start
        vr = kind.vr if kind.kind != Kind.AMBIGUOUS else self._resolved_vr()
        if vr not in BULK_VRS:
            vr = "UN"  # implicit VR can say more than the VR can hold
        elif length == UNDEFINED and kind.form == IMPLICIT_FORM:
            vr = "OB"  # encapsulated (PS3.5 A.4), in a data set that should have said so
        self._account(_BULK_REFERENCE, 0)
        self.bulk[path] = BulkRange(self._base + start, None if length == UNDEFINED else length, vr)
        frame.fields[tag] = json_bulk(b'"%08X":{"vr":"%b"' % (tag, vr.encode()), path)
        if length == UNDEFINED:
            if kind.kind != Kind.BINARY:
                raise MalformedError(f"({tag:08X}) of VR {vr} has an undefined length")
            self._stack.append(_Frame(_FOREVER, frame.charset, "", implicit=False))
            return start
        return self._skip_to(buffer, start + length)

    def _skip_to(self, buffer: bytes, stop: int) -> int:
        if stop > len(buffer):
            self._skip = stop - len(buffer)
            return len(buffer)
        return stop

    def _item_of(self, sequence: _Frame, buffer: bytes, position: int) -> tuple[int, bool]:
        """Read one item header of a sequence."""
        if len(buffer) - position < 8:
            self._wanted = len(buffer) - position + 8
            return position, True
        group, element = self._tag(buffer, position)
        tag = group << 16 | element
        (length,) = self._u32(buffer, position + 4)
        position += 8
        if tag == _SEQUENCE_DELIMITATION:
            self._close()
        elif tag == _ITEM:
            self._account(8, 1)  # an empty one costs memory, too
            end = _FOREVER if length == UNDEFINED else self._base + position + length
            if end > sequence.end and end != _FOREVER:
                raise MalformedError(f"an item of {sequence.path} reaches beyond its sequence")
            assert sequence.items is not None
            number = len(sequence.items) + 1
            item = _Frame(
                end,
                sequence.charset,
                f"{sequence.path}/{number}/",
                implicit=sequence.implicit,
            )
            item.fields = {}
            self._stack.append(item)
        else:
            raise MalformedError(f"({tag:08X}) stands where an item of {sequence.path} should")
        return position, False

    def _fragment_of(self, buffer: bytes, position: int) -> tuple[int, bool]:
        """Skip one fragment of an encapsulated value (PS3.5 A.4)."""
        if len(buffer) - position < 8:
            self._wanted = len(buffer) - position + 8
            return position, True
        group, element = self._tag(buffer, position)
        tag = group << 16 | element
        (length,) = self._u32(buffer, position + 4)
        position += 8
        if tag == _SEQUENCE_DELIMITATION:
            self._stack.pop()
            return position, False
        if tag != _ITEM or length == UNDEFINED:
            raise MalformedError(f"({tag:08X}) stands where a fragment of Pixel Data should")
        position = self._skip_to(buffer, position + length)
        return position, bool(self._skip)

    def _delimiter(self, frame: _Frame, buffer: bytes, position: int) -> bool:
        """Handle a delimiter or padding where an element should be; True if it is done with."""
        group, element = self._tag(buffer, position)
        tag = group << 16 | element
        if tag == _ITEM_DELIMITATION and frame.end == _FOREVER and frame is not self._root:
            self._close()
            return True
        if tag in {_ITEM_DELIMITATION, _SEQUENCE_DELIMITATION}:
            self._strays += 1
            if self._strays > _STRAY_DELIMITERS:
                raise MalformedError("too many delimiters stand where nothing is to be delimited")
            if self._strays == 1:
                self.warnings.append("a delimiter stands where nothing is to be delimited")
            return True
        if tag == 0 and frame is self._root and self._elements:
            self._padding = True
            return False
        raise MalformedError(f"({tag:08X}) stands where an element should")

    def _close(self) -> None:
        """End the innermost frame and hand its JSON to the one around it."""
        frame = self._stack.pop()
        outer = self._stack[-1]
        if frame.fields is not None:
            assert outer.items is not None
            text = b"{" + b",".join(_ascending(frame).values()) + b"}"
            outer.items.append(text)
        elif frame.items is not None:
            assert outer.fields is not None
            tag = int(frame.key[1:9], 16)
            items = b',"Value":[%b]}' % b",".join(frame.items) if frame.items else b"}"
            outer.fields[tag] = frame.key + items

    def _account(self, size: int, elements: int) -> None:
        self._size += size
        self._elements += elements
        if self._size > self._limits.header_bytes:
            raise HeaderTooLargeError(
                f"the attributes take more than {self._limits.header_bytes >> 20} MiB"
            )
        if self._elements > self._limits.elements:
            raise HeaderTooLargeError(f"there are more than {self._limits.elements} elements")


_SPECIAL = frozenset(
    (
        b"\xfe\xff\x0d\xe0",
        b"\xfe\xff\xdd\xe0",
        b"\xfe\xff\x00\xe0",
        b"\xff\xfe\xe0\x0d",
        b"\xff\xfe\xe0\xdd",
        b"\xff\xfe\xe0\x00",
        b"\0\0\0\0",
    )
)


def _ascending(frame: _Frame) -> dict[int, bytes]:
    assert frame.fields is not None
    return frame.fields if frame.sorted else dict(sorted(frame.fields.items()))

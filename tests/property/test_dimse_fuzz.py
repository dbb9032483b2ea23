"""Whatever a peer sends, the upper layer holds its promises (`dimse_drive` says which)."""

from __future__ import annotations

from pathlib import Path

from dimse_drive import drive
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
SEEDS = [path.read_bytes() for path in sorted(CORPUS.glob("seed-*"))]

POSITIONS = st.integers(0, 10_000)
#: What parsers trip over: lengths at their limits, and headers where none should be.
PIECES = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\0\0\0\1",
        b"\0\0\0\2",
        b"\4\0\0\0\0\6\0\0\0\2\1\2",
        b"\4\0\0\0\0\6\0\0\0\2\1\0",
        b"\5\0\0\0\0\4\0\0\0\0",
        b"\7\0\0\0\0\4\0\0\0\0",
        b"\x50\0\xff\xff",
        b"\x20\0\0\4\1\0\0\0",
        b"\0\0\0\0\4\0\0\0\0\0\0\0",
    ]
)
MUTATIONS = st.one_of(
    st.tuples(st.just("set"), POSITIONS, st.integers(0, 255).map(lambda n: bytes((n,)))),
    st.tuples(st.just("set"), POSITIONS, PIECES),
    st.tuples(st.just("insert"), POSITIONS, PIECES | st.binary(max_size=20)),
    st.tuples(st.just("delete"), POSITIONS, st.integers(1, 40).map(bytes)),
    st.tuples(st.just("repeat"), POSITIONS, st.integers(1, 40).map(bytes)),
    st.tuples(st.just("truncate"), POSITIONS, st.just(b"")),
)


def mutated(data: bytes, mutations: list[tuple[str, int, bytes]]) -> bytes:
    out = bytearray(data)
    for kind, place, piece in mutations:
        at = place % (len(out) + 1)
        if kind == "set":
            out[at : at + len(piece)] = piece
        elif kind == "insert":
            out[at:at] = piece
        elif kind == "delete":
            del out[at : at + len(piece)]
        elif kind == "repeat":
            out[at:at] = out[at : at + len(piece)]
        else:
            del out[at:]
    return bytes(out)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(MUTATIONS, min_size=1, max_size=6))
def test_a_damaged_conversation_breaks_nothing(
    seed: bytes, mutations: list[tuple[str, int, bytes]]
) -> None:
    drive(mutated(seed, mutations))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), POSITIONS, POSITIONS)
def test_two_conversations_spliced_break_nothing(
    one: bytes, other: bytes, end: int, begin: int
) -> None:
    drive(one[: end % (len(one) + 1)] + other[begin % (len(other) + 1) :])


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_break_nothing(data: bytes) -> None:
    drive(data)


# A surprise of ours comes at a moment that depends on the cut.
@settings(deadline=None)
@given(st.sampled_from([seed for seed in SEEDS if not seed[0] & 6]), st.integers(1, 255))
def test_how_the_bytes_are_cut_changes_nothing_that_is_told(seed: bytes, cut: int) -> None:
    whole = drive(bytes((seed[0], 0)) + seed[2:])
    pieces = drive(bytes((seed[0], cut)) + seed[2:])
    assert pieces.commands == whole.commands
    assert pieces.data_set_bytes == whole.data_set_bytes
    assert [type(e) for e in pieces.events[-1:]] == [type(e) for e in whole.events[-1:]]
    assert pieces.sent == whole.sent

"""Frames: any split decodes alike, a cut is never taken for an end, a lie is refused."""

import itertools
import struct
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ProtocolError
from collector.wire.frames import (
    HEADER_BYTES,
    MAGIC,
    START,
    VERSION,
    Frame,
    FrameDecoder,
    FrameEncoder,
    Kind,
    PayloadPlace,
    Stream,
)
from collector.wire.outcome import Outcome

SLOT_BYTES, SLOT_COUNT, INLINE_BYTES = 1000, 4, 300
HEADER = struct.Struct("<HBBBBHIIQQ")
"""Written down once more, so that the bytes cannot change unnoticed."""


def decoder() -> FrameDecoder:
    return FrameDecoder(slot_bytes=SLOT_BYTES, slot_count=SLOT_COUNT, inline_bytes=INLINE_BYTES)


Said = tuple[Kind, int, int | None, bytes, int, int]
"""Kind, detail, slot (None: inline), payload (of an inline frame), length, chunks."""


@st.composite
def said_frames(draw: st.DrawFn) -> Said:
    kind = draw(st.sampled_from(Kind))
    details = {Kind.DATA: st.sampled_from(Stream), Kind.END: st.integers(0, 1)}
    detail = draw(details.get(kind, st.just(0)))
    chunks = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        slot, length = draw(st.integers(0, SLOT_COUNT - 1)), draw(st.integers(0, SLOT_BYTES))
        return kind, detail, slot, b"", length, chunks
    payload = draw(st.binary(max_size=INLINE_BYTES))
    return kind, detail, None, payload, len(payload), chunks


def spoken(said: Iterable[Said], ticket: int = 7) -> list[bytes]:
    """The frames as bytes, one piece each."""
    encoder = FrameEncoder()
    return [
        encoder.encode(kind, ticket, detail=detail, chunks=chunks, slot=slot, length=length)
        + payload
        for kind, detail, slot, payload, length, chunks in said
    ]


def heard(pieces: Iterable[bytes]) -> list[tuple[Frame, bytes]]:
    """What a fresh decoder makes of the pieces."""
    ear = decoder()
    return [frame for piece in pieces for frame in ear.feed(piece)]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut the bytes at these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(said_frames(), max_size=8), st.integers(0, 2**63 - 1), st.data())
def test_any_split_of_the_bytes_decodes_alike(
    said: list[Said], ticket: int, data: st.DataObject
) -> None:
    pieces = spoken(said, ticket)
    places = data.draw(st.lists(st.integers(0, sum(map(len, pieces))), max_size=12))
    expected = [
        (
            Frame(
                kind=kind,
                detail=detail,
                place=PayloadPlace.INLINE if slot is None else PayloadPlace.SLOT,
                slot=slot or 0,
                length=length,
                chunks=chunks,
                sequence=number,
                ticket=ticket,
            ),
            payload,
        )
        for number, (kind, detail, slot, payload, length, chunks) in enumerate(said)
    ]
    joined = b"".join(pieces)
    assert heard([joined]) == expected
    assert heard(cut(joined, places)) == expected
    assert heard(joined[i : i + 1] for i in range(len(joined))) == expected


SESSION: list[Said] = [
    (Kind.READY, 0, None, b"", 0, 0),
    (Kind.START, 0, None, START.pack(5 * 2**20), START.size, 0),
    (Kind.DATA, Stream.OUTPUT, None, b"some text", 9, 2),
    (Kind.DATA, Stream.OUTPUT, 3, b"", SLOT_BYTES, 1),
    (Kind.DATA, Stream.RECORD, None, b"a record", 8, 1),
    (Kind.DATA, Stream.VALUE, 0, b"", 17, 1),
    (Kind.END, Outcome.RETURNED, None, b"a value", 7, 0),
]


def test_a_session_cut_at_any_byte_gives_the_whole_frames_before_the_cut_and_no_other() -> None:
    pieces = spoken(SESSION)
    whole = heard(pieces)
    ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
    data = b"".join(pieces)
    for length in range(len(data) + 1):
        ear = decoder()
        got = list(ear.feed(data[:length]))
        arrived = sum(end <= length for end in ends)
        assert got == whole[:arrived]
        assert len(ear._rest) == length - ([0, *ends][arrived])
        assert (got[-1:] == whole[-1:]) is (length == len(data))


def test_a_frame_may_be_taken_one_by_one_and_the_rest_later() -> None:
    ear = decoder()
    pieces = spoken(SESSION)
    frames = ear.feed(b"".join(pieces))
    first = next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert [first, *ear.feed(b"")] == heard(pieces)


def header(**lies: int) -> bytes:
    """An honest header, but for the lies."""
    fields = {
        "magic": MAGIC,
        "version": VERSION,
        "kind": Kind.DATA,
        "detail": 0,
        "place": PayloadPlace.INLINE,
        "slot": 0,
        "length": 0,
        "chunks": 1,
        "sequence": 0,
        "ticket": 7,
    }
    return HEADER.pack(*(fields | lies).values())


def test_an_honest_header_is_taken() -> None:
    assert len(header()) == HEADER_BYTES == 32
    [(frame, payload)] = heard([header()])
    assert (frame.kind, frame.ticket, payload) == (Kind.DATA, 7, b"")


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"magic": 0}, "begins with 0x0"),
        ({"magic": 0xFFFF}, "begins with 0xffff"),
        ({"version": VERSION + 1}, f"version {VERSION + 1}"),
        ({"kind": 0}, "unknown kind of frame: 0"),
        ({"kind": 8}, "unknown kind of frame: 8"),
        ({"kind": 255}, "unknown kind of frame: 255"),
        ({"detail": 4}, "unknown stream: 4"),
        ({"kind": Kind.END, "detail": Outcome.CRASHED}, "unknown outcome: 2"),
        ({"kind": Kind.END, "detail": Outcome.SPILL_FAILED}, "unknown outcome: 3"),
        ({"kind": Kind.END, "detail": 255}, "unknown outcome: 255"),
        ({"place": 2}, "place 2"),
        ({"length": INLINE_BYTES + 1}, f"claims {INLINE_BYTES + 1} bytes"),
        ({"length": 2**31}, f"claims {2**31} bytes"),
        ({"length": 2**32 - 1}, f"claims {2**32 - 1} bytes"),  # -1, were it signed
        ({"place": PayloadPlace.SLOT, "length": SLOT_BYTES + 1}, f"claims {SLOT_BYTES + 1} bytes"),
        ({"place": PayloadPlace.SLOT, "length": 2**31}, f"claims {2**31} bytes"),
        ({"place": PayloadPlace.SLOT, "slot": SLOT_COUNT}, f"in slot {SLOT_COUNT}"),
        ({"place": PayloadPlace.SLOT, "slot": 65535}, "in slot 65535"),
        ({"ticket": 2**63}, f"claims ticket {2**63}"),  # a message could not say it
        ({"sequence": 1}, "frame 1 came where 0 was due"),
        ({"sequence": 2**64 - 1}, "came where 0 was due"),
    ],
    ids=str,
)
def test_a_lie_in_a_header_is_refused_and_allocates_nothing(lie: dict[str, int], says: str) -> None:
    lying = header(**lie)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=says):
            heard([lying])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_gap_or_a_repetition_in_the_sequence_is_refused() -> None:
    pieces = spoken(SESSION)
    for order in ([0, 2], [0, 1, 1], [1], [0, 1, 2, 2], [0, 1, 3]):
        with pytest.raises(ProtocolError, match="came where"):
            heard(pieces[number] for number in order)


def test_without_slots_a_frame_in_one_is_refused() -> None:
    ear = FrameDecoder(slot_bytes=SLOT_BYTES, slot_count=0, inline_bytes=INLINE_BYTES)
    with pytest.raises(ProtocolError, match="in slot 0"):
        list(ear.feed(header(place=PayloadPlace.SLOT)))


@given(st.binary(max_size=400), st.integers(0, 6), st.data())
def test_whatever_comes_is_frames_within_the_limits_or_refused(
    noise: bytes, whole: int, data: st.DataObject
) -> None:
    # Behind some honest frames: one with a few bytes changed, then noise.
    pieces = spoken(SESSION)
    wrong = bytearray(pieces[whole])
    for place in data.draw(st.lists(st.integers(0, len(wrong) - 1), max_size=4)):
        wrong[place] = data.draw(st.integers(0, 255))
    ear = decoder()
    try:
        for piece in (*pieces[:whole], bytes(wrong), noise):
            for frame, payload in ear.feed(piece):
                assert frame.kind in set(Kind)
                assert len(payload) <= INLINE_BYTES
                assert frame.slot < SLOT_COUNT or frame.place == PayloadPlace.INLINE
                assert frame.length <= max(SLOT_BYTES, INLINE_BYTES)
    except ProtocolError:
        return
    assert len(ear._rest) < HEADER_BYTES + INLINE_BYTES

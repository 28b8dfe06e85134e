"""Messages: any split decodes alike, large bytes are not copied, a lie is refused."""

import itertools
import struct
import tracemalloc
from collections.abc import Iterable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ProtocolError
from collector.wire import messages
from collector.wire.messages import Message, MessageDecoder, encode

HEADER = struct.Struct("<BBHQ")
"""Kind, numbers, texts and bytes, length of the body. Written down once more: the wire is fixed."""

CLASSES: tuple[type[Message], ...] = get_args(Message)
# A job has any name, a file as well: lone surrogates are what Python makes of odd bytes.
TEXTS = st.text() | st.text(st.characters(categories=["Cs", "L"]))
VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    str: TEXTS,
    bytes: st.binary(max_size=200),
}


@st.composite
def any_message(draw: st.DrawFn) -> Message:
    cls = draw(st.sampled_from(CLASSES))
    values: dict[str, Any] = {
        name: draw(VALUES[kind]) for name, kind in cls.__annotations__.items()
    }
    return cls(**values)


def heard(pieces: Iterable[bytes]) -> list[tuple[type, Message]]:
    """What a fresh decoder makes of the pieces."""
    ear = MessageDecoder()
    return typed(message for piece in pieces for message in ear.feed(piece))


def typed(said: Iterable[Message]) -> list[tuple[type, Message]]:
    """With their types: named tuples with equal fields are equal."""
    return [(type(message), message) for message in said]


@given(st.lists(any_message(), max_size=5), st.data())
def test_any_split_of_the_bytes_decodes_alike(said: list[Message], data: st.DataObject) -> None:
    wire = b"".join(piece for message in said for piece in encode(message))
    places = data.draw(st.lists(st.integers(0, len(wire)), max_size=10))
    edges = [0, *sorted(places), len(wire)]
    assert heard([wire]) == typed(said)
    assert heard(wire[a:b] for a, b in itertools.pairwise(edges)) == typed(said)
    assert heard(wire[i : i + 1] for i in range(len(wire))) == typed(said)


ENDED = messages.JobEnded(
    worker=1,
    ticket=2,
    outcome=0,
    size=9,
    chunks=3,
    value_size=5,
    name="a-\udcff.spill",
    data=b"some data",
    value_name="",
    value=b"\x80\x05K\x01.",
    error_number=28,
    error="no space",
)
SESSION: list[Message] = [
    messages.WorkerReady(worker=1, refusal=""),
    messages.JobStarted(worker=1, ticket=2),
    ENDED,
    messages.Stop(),
]


def test_a_connection_cut_at_any_byte_gives_the_whole_messages_before_the_cut() -> None:
    sizes = [sum(map(len, encode(message))) for message in SESSION]
    wire = b"".join(piece for message in SESSION for piece in encode(message))
    for length in range(len(wire) + 1):
        arrived = sum(sum(sizes[: n + 1]) <= length for n in range(len(sizes)))
        assert heard([wire[:length]]) == typed(SESSION[:arrived])


def test_large_bytes_are_not_copied_to_be_sent() -> None:
    data = bytes(100_000)
    assert any(piece is data for piece in encode(ENDED._replace(data=data)))


def test_a_view_of_bytes_is_read_as_well() -> None:
    ear = MessageDecoder()
    with memoryview(bytearray(b"".join(encode(ENDED)))) as view:
        assert typed(ear.feed(view)) == typed([ENDED])


def wire_of(message: Message) -> bytearray:
    return bytearray(b"".join(encode(message)))


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": len(CLASSES)},
        {"kind": 255},
        {"numbers": 0},
        {"numbers": 255},
        {"blobs": 0},
        {"blobs": 65535},
        {"length": 0},
        {"length": 1},
        {"length": HEADER.size},
    ],
    ids=str,
)
def test_a_lie_in_a_header_is_refused(lie: dict[str, int]) -> None:
    wire = wire_of(ENDED)
    fields = dict(
        zip(("kind", "numbers", "blobs", "length"), HEADER.unpack_from(wire), strict=False)
    )
    HEADER.pack_into(wire, 0, *(fields | lie).values())
    with pytest.raises(ProtocolError):
        heard([bytes(wire)])
    # Also when nothing follows the lie.
    with pytest.raises(ProtocolError):
        heard([bytes(wire[: HEADER.size + lie.get("length", len(wire))])])


@pytest.mark.parametrize("size", [0, 1, 10, 2**31, 2**60, 2**63, 2**64 - 1])
@pytest.mark.parametrize("which", range(5))
def test_a_lie_about_the_length_of_a_text_is_refused_and_allocates_nothing(
    which: int, size: int
) -> None:
    wire = wire_of(ENDED)
    at = HEADER.size + 7 * 8 + which * 8
    honest = struct.unpack_from("<Q", wire, at)[0]
    assert honest in {len(ENDED.name.encode("utf-8", "surrogatepass")), 9, 0, 5, 8}
    if size == honest:
        pytest.skip("that is no lie")
    struct.pack_into("<Q", wire, at, size)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            heard([bytes(wire)])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_text_that_is_none_is_refused() -> None:
    wire = wire_of(messages.WorkerDrained(worker=1, broken="x"))
    wire[-1] = 0xFF
    with pytest.raises(ProtocolError, match="a text that is none"):
        heard([bytes(wire)])


@given(any_message(), st.binary(max_size=100), st.data())
def test_whatever_comes_is_messages_or_refused(
    message: Message, noise: bytes, data: st.DataObject
) -> None:
    wire = wire_of(message)
    for place in data.draw(st.lists(st.integers(0, len(wire) - 1), max_size=4)):
        wire[place] = data.draw(st.integers(0, 255))
    ear = MessageDecoder()
    try:
        for piece in (bytes(wire), noise):
            assert all(isinstance(found, CLASSES) for found in ear.feed(piece))
    except ProtocolError:
        pass

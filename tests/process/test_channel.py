"""Messages over a descriptor: whole, in order, and never a wait."""

import itertools
import os
import resource
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from collector.errors import ProtocolError
from collector.process.queue.channel import Channel
from collector.wire import messages
from collector.wire.messages import Message
from tests.support.jobs import MIB


def record(number: int, size: int) -> messages.LogRecord:
    return messages.LogRecord(ticket=number, record=bytes((number % 256,)) * size)


def receive_all(channel: Channel) -> Iterator[Message]:
    """Every message until the end."""
    poll = select.poll()
    poll.register(channel.fd, select.POLLIN)
    while True:
        assert poll.poll(60_000), "nothing comes"
        came = channel.receive()
        if came is None:
            return
        yield from came


def flush(channel: Channel) -> None:
    """Write all, waiting for room as the loops of the processes do."""
    while not channel.flush():
        select.select([], [channel.fd], [], 60)


@hypothesis_settings(max_examples=50)
@given(sizes=st.lists(st.sampled_from([0, 1, 100, 5_000, 65_536, 300_000, 2_000_000]), max_size=15))
def test_messages_of_any_size_arrive_whole_and_in_order(sizes: list[int]) -> None:
    read, write = os.pipe()
    sender, receiver = Channel(write), Channel(read)
    said = [record(number, size) for number, size in enumerate(sizes)]

    def send() -> None:
        for message in said:
            sender.post(message)
        flush(sender)
        sender.close()

    thread = threading.Thread(target=send)
    thread.start()
    assert list(receive_all(receiver)) == said
    thread.join()
    receiver.close()


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    read, write = os.pipe()
    sender, receiver = Channel(write), Channel(read)
    for number in range(100):
        sender.post(record(number, 10_000))
    said = sender.backlog_bytes
    assert sender.flush() is False
    assert 900_000 < sender.backlog_bytes < said
    assert sender.flush() is False
    got: list[Message] = []
    while len(got) < 100:
        sender.flush()
        came = receiver.receive()
        assert came is not None
        got += came
    assert got == [record(number, 10_000) for number in range(100)]
    assert sender.backlog_bytes == 0
    assert sender.flush() is True
    assert receiver.receive() == []
    sender.close()
    assert receiver.receive() is None
    receiver.close()


def test_a_reader_that_is_gone_is_an_error_of_the_system() -> None:
    read, write = os.pipe()
    sender = Channel(write)
    os.close(read)
    sender.post(messages.Stop())
    with pytest.raises(BrokenPipeError):
        sender.flush()
    sender.close()
    assert sender.backlog_bytes == 0


def test_what_is_no_message_is_refused() -> None:
    read, write = os.pipe()
    receiver = Channel(read)
    os.write(write, b"\xff" * 100)
    with pytest.raises(ProtocolError):
        receiver.receive()
    os.close(write)
    receiver.close()


def test_a_message_that_was_cut_off_is_not_delivered() -> None:
    read, write = os.pipe()
    receiver = Channel(read)
    os.write(write, b"".join(messages.encode(record(1, 1000)))[:-1])
    assert receiver.receive() == []
    os.close(write)
    assert receiver.receive() is None
    receiver.close()


def test_descriptors_travel_with_their_message_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs, takes_descriptors=True)
    pipes = [os.pipe() for _ in range(4)]
    sender.post(record(0, 100))  # waits before them
    for number in range(2):
        joined = messages.WorkerJoined(worker=number, pid=1, slots=0)
        ends = [pipes[2 * number][1], pipes[2 * number + 1][1]]
        sender.post_with(joined, ends)
    sender.close()
    got = list(receive_all(receiver))
    assert got == [
        record(0, 100),
        *(messages.WorkerJoined(worker=number, pid=1, slots=0) for number in range(2)),
    ]
    for _, end in pipes:
        os.close(end)
    arrived = [*receiver.take_descriptors(), *receiver.take_descriptors()]
    for number, fd in enumerate(arrived):
        os.write(fd, bytes((number,)))
        os.close(fd)
    for number, (end, _) in enumerate(pipes):
        assert os.read(end, 2) == bytes((number,))
        os.close(end)
    receiver.close()


def test_descriptors_that_nobody_took_are_closed_with_the_channel() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs, takes_descriptors=True)
    read, write = os.pipe()
    sender.post_with(messages.WorkerLeft(worker=1), [write])
    os.close(write)
    assert [(type(m), m) for m in receiver.receive() or ()] == [
        (messages.WorkerLeft, messages.WorkerLeft(worker=1))
    ]
    receiver.close()
    assert os.read(read, 1) == b""  # the last writer is gone
    os.close(read)
    sender.close()


def test_descriptors_need_a_socket() -> None:
    read, write = os.pipe()
    sender = Channel(write)
    with pytest.raises(TypeError, match="sockets"):
        sender.post_with(messages.Stop(), [read])
    sender.close()
    os.close(read)


def test_a_peer_that_is_gone_with_bytes_unread_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    one, other = Channel(ours), Channel(theirs)
    other.post(messages.Stop())
    other.flush()
    one.post(record(1, 100))
    one.flush()
    other.close()  # unread bytes: the system says "connection reset"
    assert one.receive() in ([messages.Stop()], None)
    assert one.receive() is None
    one.close()


def test_a_large_message_is_sent_without_a_copy_of_it_all() -> None:
    read, write = os.pipe()
    sender = Channel(write)
    data = bytes(10 * MIB)
    sender.post(messages.LogRecord(ticket=1, record=data))
    assert not sender.flush()  # the pipe is full
    assert any(memoryview(piece).obj is data for piece in sender._waiting)
    sender.close()
    os.close(read)


def test_a_channel_closes_its_descriptor_once() -> None:
    read, write = os.pipe()
    sender = Channel(write)
    sender.close()
    other = os.open(os.devnull, os.O_RDONLY)
    assert other == write  # the number is another's now
    sender.close()
    os.fstat(other)
    os.close(other)
    os.close(read)


def test_where_no_descriptor_is_to_be_had_the_messages_keep_their_own() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs, takes_descriptors=True)
    read, write = os.pipe()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(write)
    os.close(free)  # the lowest number that is free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, before[1]))
        sender.post_with(messages.WorkerLeft(worker=1), [read, write, write])  # one has room
        assert receiver.receive()
        sender.post_with(messages.WorkerLeft(worker=2), [write])  # none
        assert receiver.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    sender.post_with(messages.WorkerLeft(worker=3), [write, write])
    assert receiver.receive()
    came = [receiver.take_descriptors() for _ in range(3)]
    assert [len(fds) for fds in came] == [1, 0, 2]
    for fd in (*itertools.chain.from_iterable(came), read, write):
        os.close(fd)
    sender.close()
    receiver.close()

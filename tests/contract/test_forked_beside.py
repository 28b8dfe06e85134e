"""A child that the program forks beside a live Collector."""

import gc
import io
import os
import socket

from collector import Collector
from tests.support.child import in_child
from tests.support.jobs import square
from tests.support.tiers import each_method


def closed(one: socket.socket | io.FileIO) -> bool:
    return one.closed if isinstance(one, io.FileIO) else one.fileno() < 0


def count_open() -> int:
    """Count the sockets and files that are open, each of which must have a descriptor that is."""
    kinds = (socket.socket, io.FileIO)
    ours = [one for one in gc.get_objects() if isinstance(one, kinds) and not closed(one)]
    numbers = [one.fileno() for one in ours]
    for number in numbers:
        os.fstat(number)
    return len(numbers)


@each_method
def test_no_object_in_the_child_will_close_what_is_closed_already(method: str) -> None:
    """The number may be a file's of the child by then, when the object is dropped."""
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(square, 3).result() == 9
        assert count_open()
        in_child(count_open)
        assert collector.submit(square, 4).result() == 16

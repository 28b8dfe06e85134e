"""The pipe behind a job's descriptor, on its own."""

import os
import threading

from collector.process.worker.job_pipe import JobPipe


def test_settling_waits_for_a_piece_that_is_just_being_handed_on() -> None:
    begun, go = threading.Event(), threading.Event()
    taken = []

    def put(piece: bytes) -> None:
        begun.set()
        go.wait()
        taken.append(piece)

    pipe = JobPipe(put, lambda: False)
    os.write(pipe.fileno(), b"data")
    begun.wait()
    late = threading.Timer(0.1, go.set)
    late.start()
    pipe.settle()
    assert taken == [b"data"]
    late.join()
    pipe.end()


def test_settling_where_nothing_is_does_not_wait_for_its_thread() -> None:
    pipe = JobPipe(lambda _piece: None, lambda: False)
    for _ in range(1000):
        pipe.settle()
    pipe.end()


def test_a_finalizer_in_its_own_thread_or_within_publishing_does_not_wait_for_itself() -> None:
    def put(_piece: bytes) -> None:
        os.write(pipe.fileno(), b"more" * (len(seen) == 0))
        pipe.settle()
        seen.append(threading.current_thread().name)

    seen: list[str] = []
    publishing = threading.Event()
    pipe = JobPipe(put, publishing.is_set)
    os.write(pipe.fileno(), b"data")
    pipe.settle()
    publishing.set()
    pipe.settle()
    publishing.clear()
    pipe.end()
    assert seen == ["collector-pipe"] * len(seen)
    assert len(seen) == 2


def test_the_end_comes_although_the_pipe_is_never_empty() -> None:
    """Each piece that is taken is followed by another one, as from a daemon that is quicker."""
    taken: set[bytes] = set()
    goes_on = True

    def put(piece: bytes) -> None:
        taken.add(piece)
        if goes_on:
            os.write(writes, b"more")

    pipe = JobPipe(put, lambda: False)
    writes = os.dup(pipe.fileno())
    try:
        os.write(writes, b"data")
        ends = threading.Thread(target=pipe.end, daemon=True)
        ends.start()
        ends.join(30)
        assert not ends.is_alive()
        assert taken in ({b"data"}, {b"data", b"more"})
    finally:
        goes_on = False
        os.close(writes)

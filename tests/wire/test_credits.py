"""What a sink says back through the queue: slots and grants, however the bytes were split."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from collector.wire.credits import MOST_PATH_BYTES, CreditDecoder, Grant, slot_is_free

NUMBERS = st.integers(0, 2**64 - 1)
GRANTS = st.builds(Grant, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=MOST_PATH_BYTES))
SAID = st.lists(st.integers(0, 3) | GRANTS, max_size=12)


@given(said=SAID, cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_what_was_said_is_heard_in_order(said: list[int | Grant], cuts: list[int]) -> None:
    data = b"".join(s.encode() if isinstance(s, Grant) else slot_is_free(s) for s in said)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    decoder, slots, grants = CreditDecoder(), bytearray(), list[Grant]()
    for start, end in itertools.pairwise(edges):
        free, granted = decoder.feed(data[start:end])
        slots += free
        grants += granted
    assert bytes(slots) == bytes(s for s in said if not isinstance(s, Grant))
    assert grants == [s for s in said if isinstance(s, Grant)]


def test_all_that_can_wait_for_a_worker_fits_into_a_pipe_of_one_page() -> None:
    """A job is granted a file for a slot, and a worker without a free one reads what waits."""
    first = len(Grant(1, 2, 3, 4, b"/" * MOST_PATH_BYTES).encode())
    assert 4 * (1 + first) + 4 * len(Grant(1, 2).encode()) < 4096

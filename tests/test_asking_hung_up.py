"""A Collector that ends, or hangs up, between a question and its answer."""

import threading

import pytest

from collector import Collector
from tests.support.asking import command, heard_by_us

pytestmark = pytest.mark.usefixtures("one_server")


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("word", ["top", "kill", "follow"])
def test_one_that_has_ended_meanwhile_is_no_trouble_and_one_that_hangs_up_is_named(
    word: str, *, heard: bool, goes_on: bool
) -> None:
    told: list[tuple[int, bytes, bytes]] = []
    with Collector(1, ask=False, progress=False) as collector, heard_by_us(collector) as (run, end):
        words = {"top": ["--json"], "kill": [run, "1"], "follow": [run]}[word]
        asker = threading.Thread(target=lambda: told.append(command(word, *words)))
        asker.start()
        with end.accept()[0] as asking:
            if heard:
                asking.recv(4096)
            if not goes_on:
                end.close()
        asker.join()
    ((status, _, complained),) = told
    assert status == (0 if word == "top" else 1)
    if word == "top" and not goes_on:
        assert complained == b""
    else:
        how = b"hung up" if goes_on else b"ended"
        assert complained.endswith(b"/%s has %s without an answer\n" % (run.encode(), how))

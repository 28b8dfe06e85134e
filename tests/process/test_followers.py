"""Those who follow jobs, by themselves: where nobody is left, and where no descriptor is."""

import os
import resource
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from collector import Collector, Output, current_job
from collector.process.pool.followers import Follower, Followers
from tests.support.jobs import HasNoTextError

pytestmark = pytest.mark.usefixtures("one_server")

JOB: Any = SimpleNamespace(id=1, name="job", attempt=1, reruns=0)


def write_ten_bytes() -> None:
    current_job().write(b"x" * 10)


@pytest.fixture
def output() -> Iterator[Output]:
    with (
        Collector(1, memory_threshold=0) as collector,
        collector.submit(write_ten_bytes).output() as output,
    ):
        yield output


def follower() -> Follower:
    return Follower(None, None, lambda: None)  # type: ignore[arg-type]


def files_open(output: Output) -> int:
    """How often this process has the file of an output open."""
    path = os.fspath(output)
    return sum(
        os.path.realpath(f"/proc/self/fd/{fd}") == path for fd in os.listdir("/proc/self/fd")
    )


def test_the_file_of_a_job_is_closed_also_if_its_last_follower_has_just_gone(
    output: Output,
) -> None:
    followers = Followers(lambda _act: None)  # the answering thread reads no note any more
    followers.add(follower())
    followers.ended(JOB, output, None)
    assert files_open(output) == 0


@pytest.mark.parametrize("error", [HasNoTextError(), SystemExit(HasNoTextError())])
def test_a_follower_is_told_of_a_failure_whose_text_cannot_be_had(
    output: Output, error: BaseException
) -> None:
    """It raised in the settling thread, and that job never came to an end."""
    acts: list[Callable[[], object]] = []
    followers, one = Followers(acts.append), follower()
    followers.add(one)
    followers.ended(JOB, output, error)
    acts.pop()()
    told, fd = one.news[-1]
    assert b"its text cannot be had" in told
    assert fd is not None
    followers.discard(one)


def test_each_follower_is_told_of_an_end_also_where_no_descriptor_is_to_be_had(
    output: Output,
) -> None:
    acts: list[Callable[[], object]] = []
    followers = Followers(acts.append)
    both = [follower(), follower()]
    for one in both:
        followers.add(one)
    followers.ended(JOB, output, None)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        acts.pop()()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for one in both:
        news, fd = one.news[-1]
        assert fd is None
        assert b"its output cannot be read: [Errno 24]" in news


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (2, b"attempt 1 failed, and the job runs again"),
        (1, b"it asked to be run later, and the job runs again"),
    ],
)
def test_who_follows_is_told_that_what_came_is_no_part_of_the_output(
    attempt: int, said: bytes
) -> None:
    job: Any = SimpleNamespace(
        id=1, name="it", attempt=1, reruns=0, known_as=0, cancelled=lambda: False
    )
    job.written, job.watch = lambda: (0, ""), lambda _wake: lambda: None
    one = follower()
    one.begin(job)
    job.attempt, job.reruns = attempt, 1
    one.look()
    begun, ended, begun_again = (news for news, _ in one.news)
    assert said in ended
    assert b"ended" not in begun + begun_again

"""What is told of one job does not cost the more, the more others there are."""

from dataclasses import dataclass

from collector import Mode, Progress, ProgressEvent
from collector.progress.batch import Batch
from collector.progress.report import Reporter
from tests.support.steps import steps_of


@dataclass
class Told:
    """A job, as far as its progress goes."""

    id: int
    attempt_of_run = 1
    name = "a job"
    meters: dict[str, float]
    progress = Progress(Mode.MEMORY, 0, 0, None, threshold_exceeded=False)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return None


class Sink:
    """An object of the user's."""

    def update(self, event: ProgressEvent) -> None:
        """Take no note."""

    def close(self) -> None:
        """Do nothing."""


def batch_in_which_others_rest(many: int) -> Batch:
    """A batch of which so many jobs wait for their next attempt, and one runs."""
    reporter = Reporter()
    reporter.finish()  # what is to be told is made, and not told
    batch = Batch("", None, Sink(), reporter)
    batch.open()
    for number in range(many + 1):
        job = Told(number, {})
        batch.submitted()
        batch.started(job)
        if number < many:
            batch.rests(job)
    return batch


def test_an_event_takes_as_many_steps_however_many_jobs_wait_for_their_next_attempt() -> None:
    few, many = batch_in_which_others_rest(40), batch_in_which_others_rest(400)
    job = Told(1000, {})
    for act in (few.progressed, many.progressed):
        act(job)
    steps_of_few = steps_of(lambda: few.progressed(job))
    assert steps_of(lambda: many.progressed(job)) < 2 * steps_of_few
    assert len(many.view().running) == 1

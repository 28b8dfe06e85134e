"""The progress of one Collector: which batches there are, and who hears of each job.

Runs in:    the parent, in threads of the user's and, at the end, in the settling thread.
Owns:       the reporter, and the batch of what comes through `submit` and `map`.
"""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, final

from collector import interpreter
from collector.progress.draw import draw, last_words
from collector.progress.in_order import InOrder
from collector.progress.keys import changed_mode
from collector.progress.report import Call, Callback, Reporter
from collector.store.output.progress import Progress
from collector.store.rundir.locks import loading
from collector.wire.messages import Farewell

if TYPE_CHECKING:
    from collector.progress.batch import Batch, Observer
    from collector.progress.event import ProgressSink


@final
class OpenBatch:
    """A batch of one `collect`, until it is left.

    Args:
        batch: None if nobody looks at it.
        stop_drawing: Draws its last line.
        wait_for_room: Waits while very much waits to be told to the user's code.
    """

    def __init__(
        self,
        batch: "Batch | None",
        stop_drawing: Callable[[], None],
        wait_for_room: Callable[[], None],
    ) -> None:
        self._batch = batch
        self.wait_for_room: Final = wait_for_room
        self._stop_drawing = stop_drawing
        self._left = False

    def belonging(self) -> "Batch | None":
        """Return what its jobs belong to."""
        return self._batch

    def complete(self) -> None:
        """No further job will belong to it: the total is known."""
        if self._batch is not None:
            self._batch.complete()

    def leave(self) -> None:
        """Nobody reads it any more: leave its last line, and do not wait long for that."""
        if self._batch is not None and not self._left:
            self._left = True
            self._batch.leave()
            # It leads to the board, which leads here, and to the sink of the user's.
            stop_drawing, self._stop_drawing = self._stop_drawing, _nothing
            stop_drawing()


@final
class Board:
    """Watches the jobs of one Collector.

    Args:
        progress: None draws batches of `collect` on a terminal, True draws everything and
            everywhere, False nothing; else whatever has `update(event)` and `close()`.
    """

    def __init__(self, progress: "bool | ProgressSink | None") -> None:
        self._sink: ProgressSink | None = None
        self._drawing: bool | None = None
        if progress is None or isinstance(progress, bool):
            self._drawing = progress
        else:
            self._sink = progress
        self._reporter = Reporter()
        self._happened = InOrder()
        self._begun: OpenBatch | None = None
        self._open: weakref.WeakSet[OpenBatch] = weakref.WeakSet()
        self._said = Farewell()
        self._over = False
        if progress is not None and progress is not False:
            _load_batch()  # now: a signal handler may submit while the first submit is in it
        self.say_at_the_end = _ignore
        """Is given what gives the terminal back should this process die."""
        self.ask_waiting: Callable[[], str] = str
        """Says what jobs wait for, beside workers; nothing, if none does."""
        _boards.add(self)

    def open(self, desc: str, total: int | None) -> OpenBatch:
        """Open a batch for a `collect`."""
        unseen = self._sink is None and self._drawing is False
        if unseen or self._over:  # no job will come, and at the end nothing can be loaded
            return OpenBatch(None, _nothing, self._reporter.wait_for_room)
        return self._begin(self._batch(desc, total))

    def standing(self) -> "Batch | None":
        """Return the batch of what is submitted one by one; None if nobody looks at it."""
        if self._sink is None and not self._drawing:
            return None
        found: Batch | None = vars(self).get("_standing")
        if found is None:
            batch = self._batch("", None)
            batch.complete()
            # One step decides whose it is: a signal handler that submits may interrupt us here.
            found = vars(self).setdefault("_standing", batch)
            if found is batch:
                self._begun = self._begin(batch)
        return found

    def watchers(
        self, batch: "Batch | None", on_progress: Callable[[Any, Progress], object] | None
    ) -> "tuple[Observer, ...]":
        """Return who hears of a new job of that batch."""
        found: list[Observer] = []
        if batch is not None:
            batch.submitted()
            found.append(batch)
        if on_progress is not None:
            found.append(Callback(on_progress, self._reporter))
        return tuple(found)

    def finish(self) -> None:
        """The last job is over. Waits for a last line, but for nobody's callback."""
        self._over = True
        for batch in list(self._open):
            batch.leave()
        self._happened.do(self._end)  # behind what else is to be told

    def wait(self) -> None:
        """Wait until the user's code has heard everything, unless it does not return."""
        self._reporter.wait()

    @property
    def left_behind(self) -> bool:
        """Whether `wait` has left a call of the user's code that does not return."""
        return self._reporter.left_behind

    def _end(self) -> None:
        if self._sink is not None:
            self._reporter.must(Call(self._sink, 0, self._sink.close))
        self._reporter.finish()

    def _batch(self, desc: str, total: int | None) -> "Batch":
        _load_batch()
        from collector.progress.batch import Batch  # noqa: PLC0415 - as there

        return Batch(desc, total, self._sink, self._reporter, self._happened)

    def _begin(self, batch: "Batch") -> OpenBatch:
        batch.ask_waiting = self.ask_waiting
        batch.open()
        found = OpenBatch(batch, self._draw(batch), self._reporter.wait_for_room)
        self._open.add(found)
        return found

    def _draw(self, batch: "Batch") -> Callable[[], None]:
        stop_drawing = _nothing  # an object of the user's may draw, and one of ours
        if self._sink is None:
            stop_drawing = draw(batch, always=bool(self._drawing))
        self.say_last_words()

        def stop() -> None:
            stop_drawing()
            self.say_last_words()

        return stop

    def say_last_words(self) -> None:
        """Have the sink know what gives the terminal back should this process die."""
        farewell = Farewell(last_words(), changed_mode())
        if farewell != self._said:
            self._said = farewell
            self.say_at_the_end(farewell)


def _load_batch() -> None:
    with loading("collector.progress.batch"):
        import collector.progress.batch  # noqa: F401, PLC0415 - 6 ms, for whom jobs are shown to


def _nothing() -> None:
    """Nothing is drawn."""


def _ignore(farewell: Farewell) -> None:
    """Nobody is there to say it."""
    del farewell


_boards: Final[weakref.WeakSet[Board]] = weakref.WeakSet()


@interpreter.at_exit
def _wait_at_exit() -> None:
    for board in list(_boards):
        board.wait()

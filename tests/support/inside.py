"""Inside a Collector and a worker: the one place in the tests that knows their private parts."""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from selectors import EVENT_WRITE
from typing import Any

from collector import Collector, Job, current_job, settings
from collector.process.pool.local_engine import LocalEngine, LocalSink, LocalWorker
from collector.process.pool.supervisor import Supervisor
from collector.process.queue.channel import Channel
from collector.process.queue.chunk_queue import QueueWriter
from collector.process.queue.file_end import FileEnd
from collector.process.scheduler.prefetch import Prefetch
from collector.process.scheduler.scheduler import Scheduler
from collector.process.start.launcher import Launcher
from collector.process.worker.current_job import CurrentJob

# -- in the process of a Collector -----------------------------------------------------------------


def _supervisor(collector: Collector) -> Supervisor:
    return collector._core.pool._supervisor


def _engine(collector: Collector) -> LocalEngine:
    engine = _supervisor(collector)._engine
    assert isinstance(engine, LocalEngine)
    return engine


def worker_pids(collector: Collector) -> list[int]:
    """The workers that are there now."""
    return [w.handle.pid for w in list(_supervisor(collector)._workers.values())]


def sink_pid(collector: Collector) -> int | None:
    """The sink that is there now."""
    sink = _supervisor(collector)._sink
    return None if sink is None else sink.handle.pid


def pump_pid(collector: Collector) -> int:
    """The pump that is there now, of a Collector with the engine for Ray."""
    engine: Any = _supervisor(collector)._engine
    return int(engine._pump.child.pid)


def server_pid(collector: Collector) -> int | None:
    """The forkserver that is there now."""
    server = getattr(launcher(collector), "_server", None)
    return None if server is None else int(server.pid)


def why_broken(collector: Collector) -> str:
    """Why nothing can run any more; empty while all is well."""
    return collector._core.pool.broken


def launcher(collector: Collector) -> Launcher:
    """What starts its processes."""
    return _engine(collector).launcher


def initializer_descriptors(collector: Collector) -> list[int]:
    """What is kept for the initializer of each further worker."""
    return _engine(collector).initializer.descriptors


def channel_to_worker(collector: Collector) -> Channel:
    """How jobs go to its only worker."""
    (worker,) = _supervisor(collector)._workers.values()
    assert isinstance(worker.handle, LocalWorker)
    return worker.handle.channel


def channel_to_sink(collector: Collector) -> Channel:
    """How news goes to the sink that is there now, and comes from it."""
    sink = _supervisor(collector)._sink
    assert sink is not None
    assert isinstance(sink.handle, LocalSink)
    return sink.handle.channel


def run_directory(collector: Collector) -> Path:
    """The run directory that it made last."""
    return collector._core.pool.directory.latest.path


def run_directory_to_use(collector: Collector) -> Path:
    """The run directory that it makes files in, after making a new one if need be."""
    return collector._core.pool.directory.current().path


def waits_for_room(collector: Collector, channel: Channel) -> bool:
    """Whether its supervising thread wants to be woken when the channel takes more."""
    known = _supervisor(collector)._watch._selector.get_map().get(channel.fd)
    return known is not None and bool(known.events & EVENT_WRITE)


def jobs_at_workers(collector: Collector) -> int:
    """How many jobs have been given to workers and are not over."""
    return len(_supervisor(collector)._scheduler._dispatched)


def jobs_not_over(collector: Collector) -> int:
    """How many jobs have been submitted of whose end it has not heard."""
    return len(_supervisor(collector).jobs._work)


def is_broken(collector: Collector) -> bool:
    """Whether it has given up."""
    return bool(_supervisor(collector).broken)


def have_done(collector: Collector, act: Callable[[], None]) -> None:
    """Have something done by its supervising thread, before the jobs that are submitted later."""
    _supervisor(collector).note(act)


def set_pace(collector: Collector, job_s: float) -> None:
    """Go on as after many jobs that took so long; after brisk ones, of 0 s, many are sent ahead."""
    have_done(collector, lambda: set_pace_of(_supervisor(collector)._scheduler, job_s))


def resources_with_gates(scheduler: Scheduler) -> list[str]:
    """Of which resources it keeps a gate, or a line of jobs that are to run alone."""
    return sorted({*scheduler._waiting.gates.names(), *filter(None, scheduler._waiting._alone)})


def kept_in_order(scheduler: Scheduler) -> int:
    """How much a scheduler keeps to know which worker comes first."""
    seats = scheduler._seats
    return len(seats._dues._heap) + len(seats._loads._heap)


def next_of_all(scheduler: Scheduler) -> float:
    """When something is due first at a worker, by a look at each of them."""
    dues = map(scheduler._due_s, scheduler._seats._seats.values())
    return min((due_s for due_s in dues if due_s is not None), default=math.inf)


def next_in_order(scheduler: Scheduler) -> float:
    """The same, by the order that the scheduler keeps."""
    return scheduler._seats.next_s()


def fewest_of_all(scheduler: Scheduler, now_s: float) -> int | None:
    """How many jobs the worker has that has the fewest and may get one, by a look at each.

    None if none may. What has run for long may get none behind it.
    """
    seats = [seat for seat in scheduler._seats._seats.values() if seat.idle or seat.takes_more]
    oldest_s = now_s - settings.RECALL_AFTER_S
    return min(
        (len(seat.entries) for seat in seats if not seat.entries or seat.since_s >= oldest_s),
        default=None,
    )


def fewest_in_order(scheduler: Scheduler) -> int | None:
    """The same, by the order that the scheduler keeps, which may count what has run for long."""
    seat = scheduler._seats.least()
    return None if seat is None else len(seat.entries)


def kept_for_gates(scheduler: Scheduler) -> int:
    """How much is remembered of turns and pauses of gates, also what is out of date."""
    gates = scheduler._waiting.gates
    return len(gates._turns) + len(gates._pauses)


def set_pace_of(scheduler: Scheduler, job_s: float) -> None:
    """Go on as after many jobs that took so long each."""
    scheduler._prefetch = Prefetch(job_s, scheduler._prefetch._distance)


def let_nobody_take_more(scheduler: Scheduler) -> None:
    """Go on as when each worker has as many jobs as it may have."""
    scheduler._full = True


def workers_known_to(scheduler: Scheduler) -> int:
    """How many workers it counts on."""
    return len(scheduler._seats)


def one_round(supervisor: Supervisor) -> None:
    """Let it take in what there is, in this thread; it waits if there is nothing."""
    supervisor._round()


def is_over(supervisor: Supervisor) -> bool:
    """Whether it would leave its loop now; it tells the sink to leave if nothing else is left."""
    return supervisor._over()


def settle_now(supervisor: Supervisor) -> None:
    """Have done what its settling thread would do, in this thread."""
    supervisor.jobs.end()
    supervisor.jobs._settle_all()


def end_at_once(collector: Collector) -> None:
    """Kill what runs and cancel what waits; return when all is over."""
    collector._shut(wait=True, cancel=True, kill=True)


def followers(job: Job[Any]) -> int:
    """How many readers are woken when more of its output has come."""
    assert job._watchers is not None
    return len(job._watchers)


@contextmanager
def supervisor_held_up(collector: Collector) -> Iterator[None]:
    """Within this block the parent hears of nothing and starts nothing."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait()

    have_done(collector, hold)
    held.wait()
    try:
        yield
    finally:
        go_on.set()


# -- in a worker, in a job -------------------------------------------------------------------------


def lock_of_directory(job: CurrentJob) -> AbstractContextManager[object]:
    """What a thread of this worker holds while it looks for the run directory."""
    return job._directory._lock


def writer_of_this_worker() -> QueueWriter:
    """What takes the writes of the running job to the sink."""
    job: Any = current_job()
    writer: QueueWriter = job._writer
    return writer


def ticket_of(writer: QueueWriter) -> int:
    """The number under which the running job is written."""
    assert writer._stream is not None
    return writer._stream.ticket


def pipe_of(writer: QueueWriter) -> int:
    """The descriptor of its end of the queue's pipe."""
    return writer._frames.fd


def slots_of(writer: QueueWriter) -> memoryview:
    """The memory that it shares with the sink."""
    assert writer._slots is not None
    return writer._slots


def file_of(writer: QueueWriter) -> FileEnd | None:
    """The end of the running job's file, while the worker writes there itself."""
    return writer._file


def descriptor_of(file: FileEnd) -> int:
    """The descriptor of that file."""
    return file._file.fd


@contextmanager
def nothing_is_published(writer: QueueWriter) -> Iterator[None]:
    """Within this block no other thread of the worker publishes."""
    with writer._lock:
        yield


def next_sequence(writer: QueueWriter) -> int:
    """The number of the frame that is due next."""
    return writer._encoder._sequence


def count_a_frame(writer: QueueWriter) -> None:
    """Let the next frame have the number after that which was due."""
    writer._encoder._sequence += 1

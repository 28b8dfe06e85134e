"""What runs on the cluster: a task of Ray's that has a worker of its own run one job, or some.

The worker is the very one that runs jobs elsewhere, a process with its group; the task reads its
queue and yields what it says in parcels. So a job can do to its process what it wants, is killed
with its subprocesses, and what it had published before is yielded all the same.

Runs in:    a worker process of Ray's, which is here called the agent. Between two tasks the worker
            stays for the next one.
Owns:       the worker, with the reading end of its queue, and a run directory of its own.
Invariants: I1  a task that is given up (cancelled, its reader gone) takes its worker along.
            I2  when the agent dies, its worker sees that and ends its whole group.
"""

import os
import pickle
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pickle import PickleBuffer
from typing import Any, Final, final

from collector import settings
from collector.integrations.ray.orders import BEGINNING, LACKS, Beginning, Parcel, unpacked
from collector.integrations.ray.turn import ReadWorker, Turn
from collector.process.pickling.script import Part, Script
from collector.process.pool.local_engine import LocalEngine
from collector.process.pool.out_of_memory import OomKills
from collector.process.start.inheritance import Inheritance
from collector.process.start.launcher import open_pidfd
from collector.process.start.methods import launcher_for
from collector.store.rundir.current_directory import CurrentDirectory
from collector.store.rundir.reclaim import start_sweep
from collector.wire import messages
from collector.wire.frames import Kind


class WrongVersionError(RuntimeError):
    """The collector of the cluster, or its Python, is another one."""


@final
class Agent:
    """Runs the jobs that come to one worker process of Ray's."""

    def __init__(self, beginning: Beginning) -> None:
        self.collector = beginning.collector
        self._told = beginning
        self._parts: dict[int, Part] = {part[0]: unpacked(part) for part in beginning.parts}
        sys.argv[:] = beginning.argv  # which it hands on to its workers
        _end_with_ray()
        root = _root()
        launcher = launcher_for("forkserver")
        launcher.prepare()
        self._directory = CurrentDirectory(root)
        start_sweep(self._directory.latest.path.parent)
        initializer = Inheritance(None, launcher.method, Script())
        initializer.call = beginning.initializer
        initializer.parts = tuple(self._parts.values())
        self._engine = LocalEngine(launcher, self._directory, beginning.base_name, 0, initializer)
        self._numbers = iter(range(1, sys.maxsize))
        self._oom = OomKills()
        self._worker: ReadWorker | None = None

    def unknown(self, numbers: Iterable[int]) -> list[int]:
        """Return which of these parts of the script did not come here yet."""
        return [number for number in numbers if number not in self._parts]

    def learn(self, parts: Sequence[tuple[Any, ...]], kept: Iterable[int]) -> None:
        """Take parts of the script, and let go of those that no job will need any more.

        Args:
            parts: What to take.
            kept: The numbers of all that there are.
        """
        self._parts = {number: self._parts[number] for number in kept if number in self._parts}
        self._parts.update((part[0], unpacked(part)) for part in parts)

    def run(self, jobs: Sequence[tuple[messages.RunJob, Sequence[int]]]) -> Iterator[PickleBuffer]:
        """Run jobs one after the other; yield what their worker says, in parcels.

        Jobs of which nothing is said at the end did not begin: the worker is dead, or takes none.
        """
        waiting, until_s = deque(jobs), 0.0
        while waiting:
            worker = self._ready_worker()
            turn = Turn(worker, self._directory, self._told.parcel_bytes, self._oom, until_s)
            room = len(waiting)
            if self._told.most_tasks is not None:
                room = min(room, self._told.most_tasks - worker.jobs)
            yield from turn.run([self._with_parts(*waiting.popleft()) for _ in range(room)])
            if self._told.most_tasks is not None and worker.jobs >= self._told.most_tasks:
                worker.close()
            if turn.left:
                return
            until_s = turn.until_s
            if turn.gave_back or time.monotonic() >= until_s:
                break
        if waiting:
            parcel = Parcel()
            for job, _ in reversed(waiting):
                parcel.add(Kind.HANDED_BACK, ticket=job.ticket)
            yield parcel.take()

    def _with_parts(
        self, job: messages.RunJob, numbers: Sequence[int]
    ) -> tuple[messages.RunJob, tuple[Part, ...]]:
        return job, tuple(self._parts[number] for number in numbers)

    def _ready_worker(self) -> ReadWorker:
        if self._worker is not None and self._worker.dead():
            self._worker.close()
            self._worker = None
        if self._worker is None:
            self._worker = ReadWorker(self._engine, next(self._numbers))
        return self._worker


def _end_with_ray() -> None:
    """Have this process end with the server of this node that started it.

    Ray itself looks whether its parent is process 1 by now, which it never is where something else
    adopts orphans.
    """
    server = open_pidfd(int(os.environ.get("RAY_RAYLET_PID", os.getppid())))
    if server is None:
        return
    poller = select.poll()
    poller.register(server, select.POLLIN)

    def watch() -> None:
        poller.poll()
        os._exit(1)

    threading.Thread(target=watch, name="collector-ray-watch", daemon=True).start()


def _root() -> str | None:
    """Return where run directories are made: with Ray's own files, for they go with these.

    Ray ends this process in ways in which nothing can be cleaned up.
    """
    import ray

    try:
        at: Any = ray._private.worker.global_worker.node  # noqa: SLF001
        session: str = at.get_session_dir_path()
        root = os.path.join(session, f"collector-{os.getuid()}")
        os.makedirs(root, 0o700, exist_ok=True)
    except (AttributeError, OSError):
        return None  # the default root of this machine; the next sweep finds what is left there
    return root


class _Here:
    """The agent of this process."""

    def __init__(self) -> None:
        self.agent: Agent | None = None

    def serve(self, version: str, python: tuple[int, int], fields: Sequence[Any]) -> Agent:
        if self.agent is None or self.agent.collector != fields[0]:
            check(version, python)
            self.agent = Agent(Beginning(*fields))
        return self.agent


_here: Final = _Here()


def check(version: str, python: tuple[int, int]) -> None:
    """See whether this is what the parent is.

    Args:
        version: Of the parent's collector.
        python: The first two numbers of the version of its Python.

    Raises:
        WrongVersionError: It is not.
    """
    here = settings.VERSION, sys.version_info[:2]
    if here != (version, python):
        raise WrongVersionError(
            f"the cluster has collector {here[0]} on Python {_dotted(here[1])}, and the program "
            f"collector {version} on Python {_dotted(python)}: both must be the same"
        )


def serve(
    collector: str,
    jobs: Sequence[tuple[bytes, tuple[int, ...]]],
    references: dict[int, Any],
    kept: tuple[int, ...],
) -> Iterator[PickleBuffer]:
    """Run some jobs one after the other: this is the task of Ray's.

    Args:
        collector: Whose they are.
        jobs: What to run: of each the pickled fields of a `RunJob`, and the numbers of the parts of
            the script that it needs.
        references: To these, and to the `Beginning`; none where they are taken to be known here.
        kept: The numbers of all parts that some job may need.
    """
    agent = _here.agent
    known = agent is not None and agent.collector == collector
    numbers = {number for _, parts in jobs for number in parts}
    missing = [] if agent is None else agent.unknown(numbers)
    if not references and (missing or not known):
        parcel = Parcel()
        parcel.add(LACKS)
        yield parcel.take()
        return
    if agent is None or missing or not known:
        import ray

        agent = _here.serve(*ray.get(references[BEGINNING])) if not known else agent
        assert agent is not None
        missing = agent.unknown(numbers)
        agent.learn(ray.get([references[number] for number in missing]), kept)
    yield from agent.run([(messages.RunJob(*pickle.loads(run)), parts) for run, parts in jobs])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

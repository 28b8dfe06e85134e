"""Jobs that ask `multiprocessing` or `multiprocess` who they are, and use what a parent shares."""

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, Final

SHARED: Final[dict[str, Any]] = {}


def take(things: dict[str, Any]) -> None:
    """Keep what an initializer was given."""
    SHARED.update(things)


def take_and_fail(things: dict[str, Any]) -> None:
    """Keep what an initializer was given, and raise."""
    SHARED.update(things)
    raise ValueError("this initializer fails")


def make_all(context: Any) -> dict[str, Any]:
    """One of each thing that a process can be given while it starts."""
    return {
        "lock": context.Lock(),
        "rlock": context.RLock(),
        "semaphore": context.Semaphore(2),
        "bounded": context.BoundedSemaphore(2),
        "condition": context.Condition(),
        "event": context.Event(),
        "barrier": context.Barrier(1),
        "queue": context.Queue(),
        "joinable": context.JoinableQueue(),
        "simple": context.SimpleQueue(),
        "value": context.Value("i", 0),
        "array": context.Array("d", 3),
        "raw": context.RawArray("i", 3),
        "pipe": context.Pipe(),
    }


def use_all(number: int) -> int:
    """Use each of them."""
    things = SHARED
    with things["lock"], things["rlock"], things["semaphore"], things["bounded"]:
        things["value"].value += number
    with things["condition"]:
        things["condition"].notify_all()
    things["barrier"].wait(60)
    things["event"].set()
    for name in ("queue", "joinable", "simple"):
        things[name].put((name, number))
    things["array"][1] = things["raw"][1] = number
    things["pipe"][1].send(number)
    return os.getpid()


def put_and_crash(number: int) -> None:
    """Use a shared queue, then end this worker without any clean-up."""
    SHARED["simple"].put(number)
    os._exit(3)


def put_shared(name: str, number: int) -> int:
    """Put something into a shared queue."""
    SHARED[name].put(number)
    return os.getpid()


def send_shared(what: object) -> None:
    """Send something over a shared connection."""
    SHARED["pipe"][1].send(what)


def send_on_each(name: str) -> int:
    """Send its number over each of many connections."""
    for number, (_, end) in enumerate(SHARED[name]):
        end.send(number)
    return len(SHARED[name])


def put_many(count: int, size: int) -> int:
    """Put more into a queue than its pipe holds: a thread of the worker's sends it."""
    for number in range(count):
        SHARED["queue"].put(bytes([number]) * size)
    return os.getpid()


def leave_for_the_end(library: str, path: str) -> None:
    """Have one of the two libraries make a file when this process ends."""
    util: Any = importlib.import_module(f"{library}.util")
    util.Finalize(None, Path(path).touch, exitpriority=0)


def is_held(name: str) -> bool:
    """Whether somebody else holds the shared lock."""
    free = SHARED[name].acquire(block=False)
    if free:
        SHARED[name].release()
    return not free


def receive_bytes(name: str) -> bytes:
    """Read what comes over a shared socket."""
    received: bytes = SHARED[name].recv(100)
    return received


def identity(library: str) -> tuple[str, bool, int | None, str, bool]:
    """Return name, daemon, and the parent's pid, name and life, as this library tells it."""
    told: Any = importlib.import_module(library)
    child, parent = told.current_process(), told.parent_process()
    return child.name, child.daemon, parent.pid, parent.name, parent.is_alive()


def children(library: str) -> tuple[str, int, int, bool]:
    """Start a child of this worker; returns its default name, its exit code, and what it sees."""
    told: Any = importlib.import_module(library)
    context = told.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_tell, args=(library, theirs))
    before = len(told.active_children())
    process.start()
    name, parent = ours.recv()
    process.join()
    return name, process.exitcode, before, parent == (told.current_process().name, os.getpid())


def _tell(library: str, connection: Any) -> None:
    told: Any = importlib.import_module(library)
    parent = told.parent_process()
    connection.send((told.current_process().name, (parent.name, parent.pid)))


def log_name(logger: str) -> None:
    """Log something."""
    logging.getLogger(logger).warning("from a job")


def key(library: str) -> bytes:
    """Return the key of this process."""
    return bytes(importlib.import_module(library).current_process().authkey)


def loaded(library: str) -> bool:
    """Whether this worker has loaded the library."""
    return library in sys.modules


def fill(queue: Any, mapping: Any, lock: Any) -> int:
    """Use three proxies of a manager."""
    with lock:
        mapping["pid"] = os.getpid()
        queue.put("from a job")
    return os.getpid()


def through(proxy: Any, method: str, *arguments: Any) -> Any:
    """Call a method of a proxy."""
    return getattr(proxy, method)(*arguments)


def same(proxy: Any) -> Any:
    """Return a proxy to the parent."""
    return proxy


def set_shared(name: str, key: str, value: int) -> None:
    """Put something into a shared mapping."""
    SHARED[name][key] = value


def attach(name: str) -> int:
    """Look at a block of shared memory of the parent's."""
    from multiprocessing.shared_memory import SharedMemory

    block = SharedMemory(name=name)
    first = bytes(block.buf or b"")[0]
    block.close()
    return first


def trackers() -> list[int]:
    """The resource trackers that are children of this worker."""
    found = []
    for library in ("multiprocessing", "multiprocess"):
        tracker: Any = sys.modules.get(f"{library}.resource_tracker")
        pid = None if tracker is None else tracker._resource_tracker._pid
        found += [] if pid is None else [pid]
    return found

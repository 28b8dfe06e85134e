"""What a job logs reaches the handlers of the parent, as if it had been logged there."""

import enum
import functools
import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, WorkerCrashError, current_job, settings
from collector.process.log_records import Records
from tests.support.inside import jobs_not_over
from tests.support.jobs import (
    begun_then_wait,
    kill_self,
    nothing,
    numbered,
    pid,
    raise_value_error,
    wait_for,
)
from tests.support.tiers import each_method

pytestmark = pytest.mark.usefixtures("one_server")


class Kept(logging.Handler):
    """Keeps the records that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A handler at the root logger of this process; levels are as before afterwards."""
    handler, root = Kept(), logging.getLogger()
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in ("noisy", "quiet")}
    levels[root] = root.level
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)


# -- jobs ------------------------------------------------------------------------------------------


def logs(level: int, message: str, *args: Any, name: str = "app.part", **more: Any) -> None:
    logging.getLogger(name).log(level, message, *args, **more)


NOTICE = 25


def logs_by_number() -> None:
    logging.getLogger("app").log(NOTICE, "a level with a name in the parent")
    logging.getLogger("app").log(NOTICE + 1, "one without")
    logging.addLevelName(NOTICE + 2, "TOLD")
    logging.getLogger("app").log(NOTICE + 2, "one with a name in the worker")


def logs_at_all_levels(names: list[str]) -> None:
    for name in names:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "%s at %d", name or "root", level)


def logs_an_exception() -> None:
    try:
        _ = list(range(0))[5]
    except IndexError:
        logging.getLogger("app").exception("it failed", stack_info=True)


def logs_then(count: int, end: Callable[[], object]) -> None:
    for number in range(count):
        logging.getLogger("app").warning("number %d", number)
    end()


def killed_at_first() -> int:
    if current_job().attempt == 1:
        kill_self()
    return os.getpid()


def logs_from_threads(threads: int, count: int) -> None:
    def log(thread: int) -> None:
        for number in range(count):
            logging.getLogger("app").warning("%d", number, extra={"of": thread})
            current_job().write(b"x")

    started = [threading.Thread(target=log, args=(n,), name=f"t-{n}") for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def logs_what_cannot_be_pickled() -> None:
    lock = threading.Lock()

    class Kind(enum.StrEnum):
        LOCAL = "of a local class"

    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("has no text")

    app = logging.getLogger("app")
    app.warning("an argument: %s", lock)
    app.warning("a local enum", extra={"kind": Kind.LOCAL, "lock": lock, "number": 7})
    app.warning("a silent extra", extra={"silent": Silent(), "many": ["a", 1]})
    app.warning("the end")


def logs_in_a_forked_child() -> int:
    """Fork; the child logs and leaves. Return the child's status."""
    logging.getLogger("app").warning("before")
    pid = os.fork()
    if not pid:
        logging.getLogger("app").warning("in the child")
        os._exit(7)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    logging.getLogger("app").warning("after")
    return status


class LogsWhenCollected:
    """In a cycle, thus collected at any moment, and logs then."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        logging.getLogger("app").warning("collected")


def logs_in_finalizers(count: int) -> int:
    import gc

    gc.set_threshold(3)
    for _ in range(count):
        LogsWhenCollected()
        current_job().write(b"x" * 20_000)
    gc.set_threshold(700)
    return count


def initialize(fail: bool) -> None:
    logging.getLogger("app.start").warning("the initializer")
    if fail:
        raise ValueError("the initializer fails")


# -- what arrives ----------------------------------------------------------------------------------


@each_method
def test_a_record_arrives_with_its_job_and_all_that_a_formatter_shows(
    method: str, kept: Kept
) -> None:
    with Collector(1, method, progress=False) as collector:
        job = collector.with_options(name="the job").submit(
            logs, logging.WARNING, "%s and %d", "text", 5, extra={"tag": "blue"}
        )
        job.result()
    (record,) = kept.records
    assert record.getMessage() == "text and 5"
    assert (record.job_id, record.job_name, record.tag) == (job.id, "the job", "blue")
    assert (record.name, record.levelno, record.levelname) == ("app.part", 30, "WARNING")
    assert (record.funcName, record.filename) == ("logs", Path(__file__).name)
    assert record.lineno > 1
    assert record.process != os.getpid()
    form = logging.Formatter("%(job_name)s/%(job_id)d %(levelname)s %(name)s: %(message)s")
    assert form.format(record) == f"the job/{job.id} WARNING app.part: text and 5"


@each_method
def test_levels_are_those_of_the_parent(method: str, kept: Kept) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("noisy").setLevel(logging.DEBUG)
    logging.getLogger("quiet").setLevel(logging.ERROR)
    with Collector(1, method, progress=False) as collector:
        collector.submit(
            logs_at_all_levels, ["", "noisy", "noisy.below", "quiet", "other"]
        ).result()
    assert kept.texts() == [
        *(f"root at {level}" for level in (30, 40)),
        *(f"noisy at {level}" for level in (10, 20, 30, 40)),
        *(f"noisy.below at {level}" for level in (10, 20, 30, 40)),
        "quiet at 40",
        *(f"other at {level}" for level in (30, 40)),
    ]


@each_method
def test_a_level_has_the_name_that_it_has_in_the_parent_or_else_in_the_worker(
    method: str, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger().setLevel(NOTICE)
    with Collector(1, method, progress=False) as collector:
        collector.submit(nothing).result()
        monkeypatch.setitem(logging._levelToName, NOTICE, "NOTICE")
        collector.submit(logs_by_number).result()
    assert [record.levelname for record in kept.records] == ["NOTICE", "Level 26", "TOLD"]


@each_method
def test_a_traceback_arrives_as_text(method: str, kept: Kept) -> None:
    with Collector(1, method, progress=False) as collector:
        collector.submit(logs_an_exception).result()
    (record,) = kept.records
    assert record.exc_info is None
    text = logging.Formatter().format(record)
    assert "it failed\nTraceback (most recent call last):" in text
    assert "IndexError: list index out of range" in text
    assert "Stack (most recent call last):" in text


@each_method
def test_what_the_initializer_logs_arrives(method: str, kept: Kept) -> None:
    with Collector(1, method, initialize, (False,), progress=False) as collector:
        collector.submit(nothing).result()
        (record,) = kept.records
    assert record.getMessage() == "the initializer"
    assert (record.job_id, record.job_name) == (0, "")


def test_what_an_initializer_logs_before_it_fails_arrives(kept: Kept) -> None:
    with Collector(1, None, initialize, (True,), progress=False) as collector:
        assert "the initializer fails" in str(collector.submit(nothing).exception())
        assert "the initializer" in kept.texts()


def test_caplog_sees_the_records_of_jobs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "app"), Collector(1, progress=False) as collector:
        collector.submit(logs, logging.INFO, "seen", name="app").result()
    assert caplog.record_tuples == [("app", logging.INFO, "seen")]


def test_handlers_and_filters_of_the_loggers_of_the_parent_are_asked(kept: Kept) -> None:
    own, logger = Kept(), logging.getLogger("app.own")
    own.addFilter(lambda record: "no" not in record.getMessage())
    logger.addHandler(own)
    try:
        with Collector(1, progress=False) as collector:
            for text in ("yes", "no"):
                collector.submit(logs, logging.WARNING, text, name="app.own").result()
    finally:
        logger.removeHandler(own)
    assert own.texts() == ["yes"]
    assert kept.texts() == ["yes", "no"]


@each_method
def test_a_handler_of_the_parent_is_called_in_the_parent_alone(
    method: str, kept: Kept, tmp_path: Path
) -> None:
    path, logger = tmp_path / "own.log", logging.getLogger("app.file")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(job_id)d: %(message)s"))  # there in the parent alone
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with Collector(1, method, progress=False) as collector:
            collector.submit(logs, logging.WARNING, "once", name="app.file").result()
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()
    assert path.read_text() == "1: once\n"
    assert kept.records == []


# -- when it arrives -------------------------------------------------------------------------------


@each_method
def test_all_records_of_a_job_were_handled_before_it_is_over(method: str, kept: Kept) -> None:
    with Collector(1, method, progress=False) as collector:
        for round_number in range(20):
            collector.submit(logs_then, 50, nothing).result()
            assert len(kept.records) == 50 * (round_number + 1)


@pytest.mark.parametrize(
    ("end", "kind"), [(kill_self, WorkerCrashError), (raise_value_error, ValueError)]
)
def test_what_a_job_logged_before_it_failed_arrives_before_its_error(
    end: Callable[[], object], kind: type[Exception], kept: Kept
) -> None:
    with Collector(1, progress=False) as collector:
        job = collector.submit(logs_then, 100, end)
        assert isinstance(job.exception(), kind)
        assert kept.texts() == [f"number {number}" for number in range(100)]
        assert {record.job_id for record in kept.records} == {job.id}


def test_records_arrive_while_the_job_runs(tmp_path: Path) -> None:
    seen, until = threading.Event(), tmp_path / "go"
    handler = Kept()
    handler.addFilter(lambda record: bool(record) and not seen.set())  # type: ignore[func-returns-value]
    logging.getLogger().addHandler(handler)
    try:
        with Collector(1, progress=False) as collector:
            wait = functools.partial(begun_then_wait, os.fspath(tmp_path / "b"), os.fspath(until))
            job = collector.submit(logs_then, 1, wait)
            arrived = seen.wait(60)
            running = not job.done()
            until.touch()
        assert arrived
        assert running
    finally:
        logging.getLogger().removeHandler(handler)


# -- much, large, strange --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flood_is_bounded_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    most, count = settings.RECORDS_WAITING, 3 * settings.RECORDS_WAITING
    begun, go = threading.Event(), threading.Event()

    class Slow(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            begun.set()
            go.wait()
            super().emit(record)

    slow = Slow()
    logging.getLogger().addHandler(slow)
    try:
        with Collector(1, progress=False) as collector:
            end = functools.partial(
                begun_then_wait, os.fspath(tmp_path / "logged"), os.fspath(tmp_path / "go")
            )
            job = collector.submit(logs_then, count, end)
            assert begun.wait(60)
            wait_for(tmp_path / "logged")  # the job did not wait for the handler
            (tmp_path / "go").touch()
            while jobs_not_over(collector):  # all was heard of by then
                threading.Event().wait(0.01)
            go.set()
            job.result()
            texts = slow.texts()
    finally:
        go.set()
        logging.getLogger().removeHandler(slow)
    (warning,) = (text for text in texts if "dropped" in text)
    dropped = int(warning.split()[0])
    assert dropped >= count - most - 1
    texts.remove(warning)
    assert texts[:most] == [f"number {number}" for number in range(most)]
    assert len(texts) + dropped == count


def test_large_records_that_wait_are_bounded_by_their_bytes(kept: Kept) -> None:
    waiting: list[Callable[[], None]] = []
    records = Records(waiting.append)
    packed = pickle.dumps({"name": "app", "levelno": logging.ERROR, "msg": "x" * 60_000})
    for _ in range(1000):
        records.take(packed, 1, "job")
    assert 200 < len(waiting) <= settings.RECORDS_WAITING_BYTES // len(packed)
    heard = len(waiting)
    for emit in waiting:
        emit()
    (warning,) = [text for text in kept.texts() if "dropped" in text]
    assert int(warning.split()[0]) == 1000 - heard


def test_records_of_many_threads_arrive_each_once_and_in_the_order_of_its_thread(
    kept: Kept,
) -> None:
    with Collector(1, progress=False) as collector:
        job = collector.submit(logs_from_threads, 8, 200)
        assert job.output().read() == b"x" * 1600
    for number in range(8):
        mine = [record for record in kept.records if record.of == number]
        assert [record.getMessage() for record in mine] == [str(n) for n in range(200)]
        assert {record.threadName for record in mine} == {f"t-{number}"}


def test_a_record_with_what_cannot_be_pickled_arrives_as_text(kept: Kept) -> None:
    with Collector(1, progress=False) as collector:
        collector.submit(logs_what_cannot_be_pickled).result()
    first, second, third, last = kept.records
    assert "an argument: <unlocked _thread.lock object" in first.getMessage()
    assert (second.kind, second.number) == ("of a local class", 7)
    assert "_thread.lock object" in second.lock
    assert third.many == "['a', 1]"
    assert "Silent" in third.silent
    assert last.getMessage() == "the end"


@pytest.mark.parametrize("letter", ["x", "ä", "😀"])
def test_a_huge_message_is_cut(letter: str, kept: Kept) -> None:
    with Collector(1, progress=False) as collector:
        collector.submit(logs, logging.WARNING, letter * 3_000_000).result()
    (record,) = kept.records
    assert set(record.getMessage()) == {letter}
    assert settings.RECORD_CHARS // 8 <= len(record.getMessage()) <= settings.RECORD_CHARS


def test_a_record_with_huge_extras_arrives_without_them(kept: Kept) -> None:
    extra = {f"extra{number}": "😀" * 100_000 for number in range(30)}
    with Collector(1, progress=False) as collector:
        collector.submit(logs, logging.WARNING, "small", extra=extra).result()
    (record,) = kept.records
    assert record.getMessage() == "small"
    assert record.levelname == "WARNING"


def test_a_message_that_cannot_be_made_costs_the_job_nothing(kept: Kept) -> None:
    with Collector(1, capture=True, progress=False) as collector:
        job = collector.submit(logs, logging.WARNING, "%d", "no number")
        assert job.result() is None
        assert "Logging error" in job.log().text()
    assert kept.records == []


def test_a_handler_that_raises_costs_the_job_nothing(kept: Kept) -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "app":
                raise KeyError("a handler of the user's")

    raising = Raises()
    logging.getLogger("app").addHandler(raising)
    try:
        with Collector(1, progress=False) as collector:
            collector.submit(logs_then, 3, nothing).result()
    finally:
        logging.getLogger("app").removeHandler(raising)
    assert any("a handler of the user's" in str(record.exc_info) for record in kept.records)


@each_method
def test_a_process_that_a_job_forks_may_log(method: str, kept: Kept) -> None:
    with Collector(1, method, progress=False) as collector:
        assert collector.submit(logs_in_a_forked_child).result() == 7
    assert kept.texts() == ["before", "after"]


def test_logging_in_a_finalizer_that_runs_at_any_moment_hangs_no_job(kept: Kept) -> None:
    with Collector(1, timeout=60, progress=False) as collector:
        assert collector.submit(logs_in_finalizers, 3000).result() == 3000
    assert set(kept.texts()) == {"collected"}


# -- verbose ---------------------------------------------------------------------------------------


@each_method
def test_a_verbose_collector_tells_what_becomes_of_workers_and_outputs(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="collector")
    with Collector(1, method, memory_threshold=10, progress=False, verbose=True) as collector:
        first = collector.submit(pid).result()
        with collector.with_options(name="large").submit(numbered, 100).output() as output:
            path = output.path
        second = collector.with_options(name="frail", retries=1).submit(killed_at_first).result()
    assert [record.message for record in caplog.records] == [
        f"worker 1 (pid {first}) has started",
        "the output of job pid-1 is sealed: 0 bytes in 0 chunks",
        f"the output of job large goes on in {path}",
        "the output of job large is sealed: 100 bytes in 1 chunks",
        f"worker 1 (pid {first}) was killed by SIGKILL (signal 9, possibly out of memory)",
        "job frail failed (crashed): attempt 2 follows",
        f"worker 2 (pid {second}) has started",
        "the output of job frail is sealed: 0 bytes in 0 chunks",
        f"worker 2 (pid {second}) exited with status 0",
    ]
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_a_collector_that_is_not_verbose_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="collector")
    with Collector(1, memory_threshold=10, retries=1, progress=False) as collector:
        collector.submit(numbered, 100).output().close()
        collector.submit(killed_at_first).result()
    assert caplog.records == []

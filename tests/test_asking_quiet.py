"""A job that writes nothing for a while is followed all the same, by the first and by the next."""

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest

from collector import Collector, settings
from collector.cli.asking import Asking
from collector.wire.questions import Question
from tests.support.asking import a_batch, connect, program
from tests.support.askingjobs import gated
from tests.support.follow import asks_once
from tests.support.inside import run_directory, supervisor_held_up
from tests.support.leaks import wait_until

pytestmark = pytest.mark.usefixtures("one_server")

QUIET = """
collector.submit(gated, f"{here}/go", b"0123456789", b"the end").result()
"""
LONG_S = 60.0
"""Longest wait for an answer that comes at once, on a machine that has much else to do."""


@pytest.mark.slow
def test_it_is_followed_for_longer_than_an_answer_is_waited_for(
    temp_root: Path, tmp_path: Path
) -> None:
    with a_batch(temp_root, tmp_path / "here", QUIET) as batch:
        batch.runs(1)
        done = []
        follow = threading.Thread(target=lambda: done.append(program("follow", batch.run.name)))
        follow.start()
        assert wait_until(lambda: list(batch.run.glob("*.spill")), LONG_S)  # it is followed
        assert not wait_until(lambda: done, 2 * settings.ASKING_PATIENCE_S)
        batch.let_go("go")
        follow.join()
        assert batch.end() == 0
    (printed,) = done
    assert (printed.returncode, printed.stderr) == (0, b"")
    assert printed.stdout == b"gated-1\t0123456789the end\n"


def nobody_asks() -> bool:
    return not any(thread.name == "collector-answer" for thread in threading.enumerate())


def test_who_has_asked_before_he_is_heard_is_answered_before_there_are_news(
    tmp_path: Path,
) -> None:
    with Collector(1, progress=False) as collector:
        job = collector.submit(gated, os.fspath(tmp_path / "go"), b"0123456789", b"the end")
        try:
            assert wait_until(job.running)
            run = run_directory(collector)
            for _ in range(2):  # of the first there are news at once: its output goes to a file
                with contextlib.ExitStack() as stack:
                    with supervisor_held_up(collector):  # nobody listens yet
                        end = stack.enter_context(connect(run))
                        end.sendall(b'{"kind": "follow", "job": "1"}\n')
                    end.settimeout(LONG_S)
                    lines = stack.enter_context(end.makefile("rb"))
                    assert json.loads(next(lines))["name"] == "gated-1"
                    assert json.loads(next(lines))["file"]
                assert wait_until(nobody_asks)
        finally:
            (tmp_path / "go").touch()
        assert job.output().read() == b"0123456789the end"


@pytest.mark.parametrize("job_alone", [True, False])
def test_what_a_job_had_written_that_asked_to_be_run_later_is_no_part_of_what_follows(
    tmp_path: Path, job_alone: bool
) -> None:
    marks, first, second = os.fspath(tmp_path), b"of the first", b"of the second, which is longer"
    with Collector(1, progress=False) as collector:
        job = collector.submit(asks_once, marks, first, second)
        assert wait_until(job.running, LONG_S)
        question = Question("follow", str(job.id) if job_alone else None)
        asking = Asking(os.fspath(run_directory(collector)), question)
        with contextlib.closing(asking):
            lines = asking.lines()
            while next(lines).get("bytes", 0) < len(first):
                pass
            (tmp_path / "go").touch()
            ended = next(line for line in lines if line.get("ended"))
            assert ended["error"] == "it asked to be run later, and the job runs again"
            if job_alone:
                assert list(lines) == []
            else:
                told = next(line for line in lines if line.get("ended"))
                assert (told["bytes"], told["error"]) == (len(second), None)
                assert os.pread(asking.descriptors[-1], 100, 0) == second
        assert job.output().read() == second

"""Handlers and filters of logging that raise: whoever logs goes on."""

from pathlib import Path

import pytest

from tests.support.scripts import run_script

SCRIPT = """
import faulthandler, logging, sys
from collector import Collector

faulthandler.dump_traceback_later(60, exit=True)  # for a program that hangs
raises = {"error": ZeroDivisionError, "exit": SystemExit}[sys.argv[2]]

class Raises(logging.Handler):
    def emit(self, record):
        raise raises("of a handler")

    def filter(self, record):
        if sys.argv[1] == "filter":
            raise raises("of a filter")
        return True

logging.getLogger().addHandler(Raises())

def work(number):
    logging.getLogger("app").warning("number %d", number)
    return number

def fail(*of_a_job):
    raise ValueError("of a callback")

with Collector(1, on_progress=fail, progress=False) as collector:
    for number in range(3):
        job = collector.submit(work, number)
        called = []
        job.add_done_callback(fail)
        job.add_done_callback(called.append)
        print(job.result(), flush=True)
    assert [job.result() for job in collector.collect(work, range(3))] == [0, 1, 2]
assert called == [job]
print("over")
"""


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("error", "handler"),
        ("exit", "filter"),
        pytest.param("error", "filter", marks=pytest.mark.slow),
        pytest.param("exit", "handler", marks=pytest.mark.slow),
    ],
)
def test_jobs_go_on_whatever_a_handler_does(where: str, what: str, tmp_path: Path) -> None:
    done = run_script(tmp_path, SCRIPT, where, what)
    assert done.stdout.split() == ["0", "1", "2", "over"], done.stderr
    assert f"of a {where}" in done.stderr

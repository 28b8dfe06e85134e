"""Members of the script's enums where a text or a number is asked for: they are what they hold."""

import enum
import logging
import os
from pathlib import Path

import pytest

from collector import Collector
from tests.support.jobs import begun_then_wait, wait_for
from tests.support.scripts import run_well
from tests.support.tiers import each_method

SCRIPT = """
import enum, logging, os, sys
from collector import Collector, current_job

class Name(enum.StrEnum):
    APP = "app"
    BASE = "base"
    JOB = "the-job"
    GATE = "gate"

class Old(str, enum.Enum):
    APP = "app"
    BASE = "base"
    JOB = "the-job"
    GATE = "gate"

class Level(enum.IntEnum):
    NOTE = 25

method, kind = sys.argv[1:]
Text = {"new": Name, "old": Old}[kind]
logging.basicConfig(stream=sys.stdout, level=30, format="%(name)s %(levelno)d %(message)s")
logging.getLogger(Text.APP).setLevel(Level.NOTE)
sys.argv.append(Text.APP)
sys.path.append(Text.APP)

def work():
    logging.getLogger(Text.APP).log(Level.NOTE, "noted")
    current_job().write(b"x" * 1000)
    return current_job().name, sys.argv[-1] == "app", sys.path[-1] == "app"

with Collector(
    1, method, memory_threshold=10, temp_file_base_name=Text.BASE, resources={Text.GATE: 1}
) as collector:
    job = collector.with_options(name=Text.JOB, resource=Text.GATE).submit(work)
    print(*job.result(), f"{job.name}", job.output().path.name.partition("-")[0])
"""


@pytest.mark.parametrize("kind", ["new", "old"])
@each_method
def test_a_member_of_an_enum_stands_for_its_text_or_number(
    method: str, kind: str, tmp_path: Path
) -> None:
    printed = run_well(tmp_path, SCRIPT, method, kind).splitlines()
    assert printed == ["app 25 noted", "the-job True True the-job base"]


class Gate(str, enum.Enum):  # noqa: UP042 - a StrEnum is another kind
    """As texts were made enums before Python 3.11: `str` of one is not what it holds."""

    ONE = "one"


def test_the_limit_of_a_resource_is_that_of_the_jobs_which_name_it(tmp_path: Path) -> None:
    begun, until = os.fspath(tmp_path / "begun"), os.fspath(tmp_path / "until")
    with Collector(2, resources={Gate.ONE: 1}) as collector:
        limited = collector.with_options(resource=Gate.ONE)
        first = limited.submit(begun_then_wait, begun, until)
        second = limited.submit(Path.exists, Path(until))
        assert collector.submit(wait_for, begun).exception() is None
        waits = not second.done()
        Path(until).touch()
        assert first.exception() is None
    assert waits
    assert second.result(), "it ran when the first one was over"


def test_a_record_that_names_no_logger_reaches_the_root(caplog: pytest.LogCaptureFixture) -> None:
    with Collector(1) as collector:
        collector.submit(handles_a_record, None).result()
        collector.submit(handles_a_record, 7).result()
    assert [(r.name, r.getMessage()) for r in caplog.records] == [("root", "odd"), ("7", "odd")]


def handles_a_record(name: object) -> None:
    record = logging.makeLogRecord({"name": name, "levelno": logging.WARNING, "msg": "odd"})
    logging.getLogger("app").handle(record)

"""The page on Ray is true: its example runs, where Ray is installed."""

from pathlib import Path
from typing import Final

import pytest

from tests.support.engines import alone, needs_ray
from tests.support.sharedray import shared
from tests.test_docs import DOCS, blocks, run

pytestmark = [pytest.mark.slow, needs_ray]


@alone
def test_the_example_prints_what_each_job_returned(tmp_path: Path) -> None:
    (example,) = blocks("python", DOCS / "how-to" / "on-ray.md")
    done = run(example, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"{name}.mp4 5 48 bytes" for name in "abc"]


BOTH: Final = """
from collector import Collector

def upper(text):
    yield text.upper()

if __name__ == "__main__":
    for engine, inputs in (("local", "ab"), ("ray", "abc"), ("local", "abcd")):
        where = {"address": ADDRESS} if engine == "ray" else {}
        with Collector(max_workers=1, engine=engine, progress=False, **where) as collector:
            jobs = list(collector.collect(upper, inputs, batch="letters"))
            print(engine, sum(job.resumed for job in jobs), sum(len(job.output()) for job in jobs))
"""


@pytest.mark.ray
def test_a_batch_goes_on_on_ray_and_back(tmp_path: Path) -> None:
    done = run(BOTH.replace("ADDRESS", repr(shared.address)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["local 0 2", "ray 2 3", "local 3 4"]

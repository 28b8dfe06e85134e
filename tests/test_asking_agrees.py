"""What `top` says of a batch of 200 jobs agrees with the events of the batch, at every moment."""

from pathlib import Path

import pytest

from tests.support.agreeing import compare, make_gates
from tests.support.asking import a_batch, long_root_in
from tests.support.jobs import METHODS

BODY = """
jobs = collector.with_options(retries=1).collect(partial(step, here), range(1, 201))
print(sum(job.exception() is not None for job in jobs), flush=True)
"""


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(METHODS[0], marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.campaign) for name in METHODS[1:]),
    ],
)
def test_it_does_so_of_a_script(method: str, tmp_path: Path) -> None:
    here, root = tmp_path / "here", long_root_in(tmp_path)
    make_gates(here)
    events = 'ToFile(f"{here}/events")'
    with a_batch(root, here, BODY, method, progress=events) as batch:
        batch.runs(2)
        compare(batch.run, here / "events", here)
        assert batch.hear() == "20"
        assert batch.end() == 0

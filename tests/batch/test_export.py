"""`Batch.export`: two outputs never have one name, however alike their inputs are."""

from pathlib import Path

import pytest

from collector import Batch, BatchError
from tests.support.batchdir import ended, writer


@pytest.mark.parametrize("inputs", [(1, "1"), ("", b""), ("a", "a"), (10, "10")])
def test_of_two_jobs_of_one_name_the_second_is_refused(
    tmp_path: Path, inputs: tuple[object, object]
) -> None:
    with writer(tmp_path / "b") as writing:
        for number, value in enumerate(inputs):
            writing.store(writing.task(value), ended(b"%d" % number))
    with Batch.open(tmp_path / "b") as batch:
        with pytest.raises(BatchError, match=r"1 output could not be .* has that name already"):
            batch.export(f"{tmp_path}/x{{input}}", overwrite=True)
        assert [path.read_bytes() for path in tmp_path.glob("x*")] == [b"0"]
        again = batch.export(f"{tmp_path}/{{seq}}", overwrite=True)
        assert [path.read_bytes() for path in again] == [b"0", b"1"]

"""Which part of a batch a run has: said in numbers, or told by a queueing system."""

import pytest

from collector.batch.parts import parse_shard


def array(task: int, least: int, most: int, count: int, step: int | None = None) -> dict[str, str]:
    told = {"ID": task, "MIN": least, "MAX": most, "COUNT": count}
    if step is not None:
        told["STEP"] = step
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("3/8", {}, (3, 8)),
        ("1/1", {}, (1, 1)),
        ("env", {"COLLECTOR_SHARD": "2/5\n"}, (2, 5)),
        ("slurm", array(3, 1, 8, 8, 1), (3, 8)),
        ("slurm", array(0, 0, 7, 8), (1, 8)),
        ("slurm", array(10, 4, 13, 4, 3), (3, 4)),
        ("slurm", array(4, 4, 4, 1), (1, 1)),
    ],
)
def test_a_shard_is_read(text: str, environment: dict[str, str], shard: tuple[int, int]) -> None:
    assert parse_shard(text, environment) == shard


@pytest.mark.parametrize("text", ["", "8", "3/", "/8", "0/8", "9/8", "1/0", "-1/8", "1/8/9", "²/3"])
def test_what_is_no_shard_is_refused_and_named(text: str) -> None:
    with pytest.raises(ValueError, match="i/n") as raised:
        parse_shard(text, {})
    assert repr(text) in str(raised.value)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(ValueError, match=r"\$COLLECTOR_SHARD, which is not set"):
        parse_shard("env", {})
    for name in ("ID", "MIN", "MAX", "COUNT"):
        environment = array(1, 1, 8, 8)
        del environment[f"SLURM_ARRAY_TASK_{name}"]
        with pytest.raises(ValueError, match=rf"\$SLURM_ARRAY_TASK_{name} is not set"):
            parse_shard("slurm", environment)


@pytest.mark.parametrize(
    "environment",
    [
        array(3, 1, 7, 3, 1),  # --array=1,3,7
        array(1, 1, 9, 8),  # --array=1-4,6-9
        array(4, 1, 7, 3, 3) | {"SLURM_ARRAY_TASK_ID": "5"},
    ],
)
def test_an_array_with_holes_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="has holes"):
        parse_shard("slurm", environment)


def test_numbers_of_an_array_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="must be a number; it is 'x'"):
        parse_shard("slurm", array(1, 1, 8, 8) | {"SLURM_ARRAY_TASK_ID": "x"})
    with pytest.raises(ValueError, match="task 9 of a SLURM array from 1 to 8"):
        parse_shard("slurm", array(9, 1, 8, 8))
    with pytest.raises(ValueError, match="by 0 is none"):
        parse_shard("slurm", array(1, 1, 8, 8, 0))

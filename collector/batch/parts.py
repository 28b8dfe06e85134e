"""Which part of a batch a run is to have: `3/8`, or what a queueing system tells.

Runs in:    any process; pure.
Source:     the variables are those of `sbatch --array`, as SLURM's manual has them.
"""

import re
from collections.abc import Mapping
from typing import Final

SHARD_VARIABLE: Final = "COLLECTOR_SHARD"
"""What `--shard env` reads."""

_SHARD: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)
_SLURM: Final = "SLURM_ARRAY_TASK_"


def shard_name(shard: tuple[int, int] | None) -> str:
    """Return the name of what a run adds to a batch, of which it has a part or everything."""
    return "0" if shard is None else "{}of{}".format(*shard)


def parse_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return `(i, n)`: this run has the i-th of n parts, from 1.

    Args:
        text: `i/n`, or `env` for what `COLLECTOR_SHARD` says, or `slurm` for a task of an array.
        environment: Of this process.

    Raises:
        ValueError: It makes no sense; or the array has holes, and the inputs of the parts that are
            missing would never run.
    """
    if text == "slurm":
        return _of_slurm(environment)
    if text == "env":
        said = environment.get(SHARD_VARIABLE)
        if said is None:
            raise ValueError(f"the shard is to come from ${SHARD_VARIABLE}, which is not set")
        return _numbers(said, f"${SHARD_VARIABLE}")
    return _numbers(text, "the shard")


def _numbers(text: str, of: str) -> tuple[int, int]:
    match = _SHARD.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{of} must be i/n, for example 3/8 for the third of eight parts, or slurm, or env; "
            f"it is {text!r}"
        )
    part, parts = int(match[1]), int(match[2])
    if not 1 <= part <= parts:
        raise ValueError(f"{of} must be i/n with i from 1 to n; it is {text!r}")
    return part, parts


def _of_slurm(environment: Mapping[str, str]) -> tuple[int, int]:
    task, least, most, count = (
        _slurm_number(environment, name) for name in ("ID", "MIN", "MAX", "COUNT")
    )
    step = _slurm_number(environment, "STEP") if f"{_SLURM}STEP" in environment else 1
    if step < 1 or not least <= task <= most:
        raise ValueError(f"task {task} of a SLURM array from {least} to {most} by {step} is none")
    if (most - least) // step + 1 != count or (task - least) % step:
        raise ValueError(
            f"the SLURM array has holes: {count} tasks from {least} to {most} by {step}; the "
            "inputs of the missing parts would never run. Submit an array without holes, for "
            f"example --array=1-{count}"
        )
    return (task - least) // step + 1, count


def _slurm_number(environment: Mapping[str, str], name: str) -> int:
    variable = f"{_SLURM}{name}"
    said = environment.get(variable)
    if said is None:
        raise ValueError(
            f"the shard is to come from a SLURM array, and ${variable} is not set: submit the "
            "script with sbatch --array=1-8"
        )
    if not (said.isascii() and said.isdigit()):
        raise ValueError(f"${variable} must be a number; it is {said!r}")
    return int(said)

"""`collector top`: what all running Collectors of this user are doing."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from collector.cli.asking import Answer, AskError, SilentError, ask_all, done_of_total
from collector.cli.printing import DONE, complain, print_table, printable, printing, size
from collector.cli.roots import add_root_to
from collector.store.rundir.reclaim import live_runs
from collector.wire.questions import Question

_RATE_OVER_S: Final = 0.5
_JOBS_SHOWN: Final = 8
_NAME_SHOWN: Final = 60


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    top = commands.add_parser("top", help="show what running Collectors are doing")
    top.add_argument("--json", action="store_true", help="print a list, one object a Collector")
    add_root_to(top)
    top.set_defaults(command=_top)


class Heard(NamedTuple):
    """What runs have answered, by their paths, and when each answer came."""

    known: dict[str, Answer]
    came_s: dict[str, float]


def _top(arguments: argparse.Namespace) -> int:
    answers, earlier = _ask(live_runs(arguments.root))
    with printing():
        if arguments.json:
            print(json.dumps(list(earlier.known.values())))
        elif earlier.known:
            time.sleep(_RATE_OVER_S)
            again, now = _ask(list(earlier.known))
            answers |= again
            print_runs(earlier, now)
    for said in answers.values():
        if isinstance(said, AskError) and not isinstance(said, SilentError):
            complain(printable(str(said)))
    return DONE


def _ask(runs: Sequence[str]) -> tuple[dict[str, Answer | AskError], Heard]:
    came_s: dict[str, float] = {}
    answers = ask_all(runs, Question("top"), came_s)
    known = {run: said for run, said in answers.items() if not isinstance(said, AskError)}
    return answers, Heard(known, came_s)


def print_runs(earlier: Heard, now: Heard) -> None:
    """Print the runs that have answered twice, and their jobs."""
    print_table(
        ("RUN", "PID", "DONE", "FAILED", "BYTES", "RATE", "MEMORY", "RUNNING", "BATCH"),
        (
            (
                said["run"],
                str(said["pid"]),
                done_of_total(said),
                str(said["failed"]),
                size(said["bytes"]),
                _rate(earlier, now, run),
                size(said["memory_bytes"]),
                str(len(said["running"])),
                said["batch"] or "-",
            )
            for run, said in now.known.items()
        ),
    )
    jobs = list(_jobs(now.known))
    if jobs:
        print()
        print_table(("RUN", "JOB", "NAME", "ATTEMPT", "SECONDS", "BYTES"), jobs)


def _rate(earlier: Heard, now: Heard, run: str) -> str:
    more = now.known[run]["bytes"] - earlier.known[run]["bytes"]
    return f"{size(max(0, int(more / (now.came_s[run] - earlier.came_s[run]))))}/s"


def _jobs(now: dict[str, Answer]) -> Iterator[tuple[str, ...]]:
    for said in now.values():
        for job in said["running"][:_JOBS_SHOWN]:
            yield (
                said["run"],
                str(job["job"]),
                job["name"][:_NAME_SHOWN],
                str(job["attempt"]),
                f"{job['seconds']:.1f}",
                size(job["bytes"]),
            )
        more = len(said["running"]) - _JOBS_SHOWN
        if more > 0:
            yield (said["run"], "", f"and {more} more", "", "", "")

"""`collector status`: what has come of a batch so far."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from collector.batch.batch import Batch
from collector.cli.batches import add_directory_to, line, opened
from collector.cli.printing import DONE, NOT_DONE, print_table, printing, size

_ALL = 2**62


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    status = commands.add_parser(
        "status",
        help="say what has come of a batch so far",
        description="Say how many jobs of a batch are done, failed, interrupted and waiting. The "
        "exit status is 0 if all that are known are done, else 1.",
    )
    add_directory_to(status)
    status.add_argument("--failed", action="store_true", help="list every job that has failed")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    with opened(arguments.directory) as batch, printing():
        status = batch.status(_ALL if arguments.failed or arguments.json else 0)
        if arguments.json:
            print(json.dumps(status))
        elif arguments.failed:
            print_table(
                ("INPUT", "STATUS", "ERROR", "KEY"),
                ((f["input"], f["status"], f["error"], f["key"]) for f in status["failures"]),
            )
        else:
            _print(arguments.directory, batch, status)
    return DONE if status["failed"] + status["interrupted"] + status["waiting"] == 0 else NOT_DONE


def _print(directory: str, batch: Batch, status: Mapping[str, Any]) -> None:
    print(f"{line(directory)}: {batch.kind} {line(batch.runs)}")
    for name in ("done", "failed", "interrupted", "waiting"):
        print(f"{name:12} {status[name]}")
    print(f"{'bytes':12} {size(status['bytes'])}")
    print(f"{'seconds':12} {status['seconds']:.1f}")
    for name, value in sorted(status["meters"].items()):
        print(f"{line(name):12} {value:g}")

"""`collector ls`: list live and stale run directories."""

import argparse
import json
from collections.abc import Iterable

from collector.cli.asking import Answer, AskError, ask_all, done_of_total
from collector.cli.printing import DONE, age, known, print_table, printing, size
from collector.cli.roots import add_root_to
from collector.store.rundir.reclaim import RunInfo, list_runs
from collector.wire.questions import Question


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    ls = commands.add_parser("ls", help="list live and stale run directories")
    ls.add_argument("--json", action="store_true", help="print one JSON object")
    add_root_to(ls)
    ls.set_defaults(command=_ls)


def _ls(arguments: argparse.Namespace) -> int:
    runs = list_runs(arguments.root)
    answers = ask_all([run.path for run in runs if run.state == "live"], Question("top"))
    doing = {run.path: None for run in runs} | {
        path: answer for path, answer in answers.items() if not isinstance(answer, AskError)
    }
    with printing():
        if arguments.json:
            facts = [run.as_json() | {"doing": doing[run.path]} for run in runs]
            print(json.dumps({"runs": facts}))
        elif runs:
            _print_runs(runs, doing)
    return DONE


def _print_runs(runs: Iterable[RunInfo], doing: dict[str, Answer | None]) -> None:
    print_table(
        ("RUN", "STATE", "PID", "AGE", "FILES", "BYTES", "DOING", "COMMAND"),
        (
            (
                run.path,
                run.state,
                known(run.pid),
                age(run.age_s),
                str(run.files),
                size(run.bytes),
                _said(doing[run.path]),
                known(run.command),
            )
            for run in runs
        ),
    )


def _said(doing: Answer | None) -> str:
    """Say in a few words what a run does, if it says so itself."""
    if doing is None:
        return "-"
    return f"{done_of_total(doing)} done, {len(doing['running'])} running"

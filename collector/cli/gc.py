"""`collector gc`: remove the run directories whose processes are all dead."""

import argparse
import json
import os
from typing import Final

from collector.cli.printing import (
    DONE,
    NOT_DONE,
    age,
    complain,
    known,
    print_table,
    printable,
    printing,
    size,
)
from collector.cli.roots import add_root_to
from collector.store.rundir.reclaim import ReclaimReport, reclaim_watched

_BAR_DELAY_S: Final = 1.0


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    gc = commands.add_parser("gc", help="remove the run directories whose processes are all dead")
    gc.add_argument("--dry-run", action="store_true", help="remove nothing, print the same")
    gc.add_argument("--json", action="store_true", help="print one JSON object")
    add_root_to(gc)
    gc.set_defaults(command=_gc)


def _gc(arguments: argparse.Namespace) -> int:
    report = _reclaim_with_bar(arguments.root, dry_run=arguments.dry_run)
    with printing():
        if arguments.json:
            print(json.dumps(report.as_json()))
        else:
            _print_report(report)
    if report.dry_run and not arguments.json:
        complain("a dry run: nothing was removed")
    for failure in report.failures:
        where = printable(os.fsdecode(failure.filename))
        complain(f"cannot remove {where}: {failure.strerror}")
    return NOT_DONE if report.failures else DONE


def _reclaim_with_bar(roots: list[str] | None, *, dry_run: bool) -> ReclaimReport:
    from collector.progress.text import private_tqdm  # noqa: PLC0415 - `collector ls` draws nothing

    # On a terminal only, and only if it takes longer than the delay.
    with private_tqdm()(
        desc="collector gc", unit=" files", leave=False, disable=None, delay=_BAR_DELAY_S
    ) as bar:

        def tick() -> None:
            bar.update()

        return reclaim_watched(roots, dry_run=dry_run, tick=tick)


def _print_report(report: ReclaimReport) -> None:
    if report.reclaimed:
        print_table(
            ("RUN", "PID", "AGE", "FILES", "BYTES"),
            (
                (run.path, known(run.pid), age(run.age_s), str(run.files), size(run.bytes))
                for run in report.reclaimed
            ),
        )
    print(
        f"reclaimed {len(report.reclaimed)}, live {report.live}, unknown {report.unknown}, "
        f"foreign {report.foreign}, unreadable {report.unreadable}; {report.bytes} bytes freed"
    )

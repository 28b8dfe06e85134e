"""The `collector` program: look at what runs have left in the temp roots, and reclaim it.

Runs in:    a process of its own.
States:     exit status 0 done, 1 something of ours could not be removed or the report not be
            printed, 2 wrong usage or a root that cannot be used, 130 interrupted.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TextIO

from collector.errors import RunDirectoryError
from collector.store.reclaim import ReclaimReport, RunInfo, list_runs, reclaim_watched

DONE: Final = 0
NOT_REMOVED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

_BAR_DELAY_S: Final = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Its arguments without its name; None for those of this process.

    Returns:
        The exit status.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal may lack letters
    try:
        return command(arguments)
    except RunDirectoryError as error:
        _complain(_printable(str(error)))
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="collector", description="Look at what runs of collector have left, and reclaim it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    gc = commands.add_parser("gc", help="remove the run directories whose processes are all dead")
    gc.add_argument("--dry-run", action="store_true", help="remove nothing, print the same")
    gc.set_defaults(command=_gc)

    ls = commands.add_parser("ls", help="list live and stale run directories")
    ls.set_defaults(command=_ls)

    demo = commands.add_parser("demo", help="tokenize the standard library, crash, compare")
    demo.set_defaults(command=_demo)

    for command in (gc, ls):
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument(
            "--root",
            action="append",
            type=_root,
            metavar="PATH",
            help="look at this temp root, not at all that are yours; may be given again",
        )
    return parser


def _root(path: str) -> str:
    if not path:
        raise argparse.ArgumentTypeError("a temp root must be a path, not an empty one")
    return path


def _gc(arguments: argparse.Namespace) -> int:
    report = _reclaim_with_bar(arguments.root, dry_run=arguments.dry_run)
    with _printing():
        if arguments.json:
            print(json.dumps(report.as_json()))
        else:
            _print_report(report)
    if report.dry_run and not arguments.json:
        _complain("a dry run: nothing was removed")
    for failure in report.failures:
        where = _printable(os.fsdecode(failure.filename))
        _complain(f"cannot remove {where}: {failure.strerror}")
    return NOT_REMOVED if report.failures else DONE


def _ls(arguments: argparse.Namespace) -> int:
    runs = list_runs(arguments.root)
    with _printing():
        if arguments.json:
            print(json.dumps({"runs": [run.as_json() for run in runs]}))
        elif runs:
            _print_runs(runs)
    return DONE


def _demo(arguments: argparse.Namespace) -> int:
    from collector.demo import run_demo  # noqa: PLC0415 - gc and ls start no processes

    try:
        status = run_demo(arguments)
        print(end="", flush=True)
    except BrokenPipeError:
        _turn_off(sys.stdout)
        return DONE
    return status


def _reclaim_with_bar(roots: list[str] | None, *, dry_run: bool) -> ReclaimReport:
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]  # generic for mypy only
        monitor_interval = 0  # no thread of tqdm's

    # On a terminal only, and only if it takes longer than the delay.
    with Bar(
        desc="collector gc", unit=" files", leave=False, disable=None, delay=_BAR_DELAY_S
    ) as bar:

        def tick() -> None:
            bar.update()

        return reclaim_watched(roots, dry_run=dry_run, tick=tick)


def _print_report(report: ReclaimReport) -> None:
    if report.reclaimed:
        _print_table(
            ("RUN", "PID", "AGE", "FILES", "BYTES"),
            (
                (run.path, _known(run.pid), _age(run.age_s), str(run.files), _size(run.bytes))
                for run in report.reclaimed
            ),
        )
    print(
        f"reclaimed {len(report.reclaimed)}, live {report.live}, unknown {report.unknown}, "
        f"foreign {report.foreign}, unreadable {report.unreadable}; {report.bytes} bytes freed"
    )


def _print_runs(runs: Iterable[RunInfo]) -> None:
    _print_table(
        ("RUN", "STATE", "PID", "AGE", "FILES", "BYTES", "COMMAND"),
        (
            (
                run.path,
                run.state,
                _known(run.pid),
                _age(run.age_s),
                str(run.files),
                _size(run.bytes),
                _known(run.command),
            )
            for run in runs
        ),
    )


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    lines = [head, *(tuple(map(_printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _printable(text: str) -> str:
    """Escape what could steer a terminal: control characters, and bytes that are no UTF-8."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def _known(fact: object) -> str:
    return "?" if fact is None else str(fact)


def _age(age_s: float) -> str:
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"


def _size(size: int) -> str:
    scaled = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024:  # noqa: PLR2004 - the step between units
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} TiB"


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Print a report, whose reader may go away early: that changes nothing of what was done."""
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        _turn_off(sys.stdout)  # `collector ls | head`: nobody reads on
    except OSError as error:
        _turn_off(sys.stdout)
        _complain(f"cannot print: {error.strerror}")
        raise SystemExit(NOT_REMOVED) from error


def _complain(text: str) -> None:
    """Say on stderr what is not as it should be; whoever closed it does not want to know."""
    if sys.stderr is None:  # print() would take stdout then
        return
    try:
        print(f"collector: {text}", file=sys.stderr, flush=True)
    except OSError:
        _turn_off(sys.stderr)


def _turn_off(stream: TextIO) -> None:
    """Write no more to a stream that fails: Python must not say so again when it leaves."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""The words of the bars: a line for each batch and for each running job, as wide as there is room.

Runs in:    the drawing thread of the parent, which imports tqdm.
Owns:       nothing that must be closed.
Invariants: I1  a line is never wider than it may be, and is not cut: what has no room is left out,
                the least important first.
            I2  neither tqdm's lock nor its list of bars is shared with bars of the user's: its
                default lock is one of `multiprocessing`, and whoever dies with it stops the parent.
            I3  this process does not fork while tqdm is being loaded: the child would wait for ever
                for a module whose loading nobody there finishes.
"""

import functools
import importlib
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, TextIO, final

from collector import settings
from collector.logger import PackageLogger
from collector.progress.view import ShownJob, View
from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    from tqdm.std import tqdm

_logger = PackageLogger()
_HEEDED: Final = ("TQDM_DISABLE", "TQDM_ASCII", "TQDM_COLOUR")
"""Variables of tqdm's that change a bar of ours; it takes any text for each of them."""

_BAR_COLUMNS: Final = 3
"""A bar that is shorter says nothing."""

_NAME_COLUMNS: Final = 12
_SHORT_NAME_COLUMNS: Final = 3
_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
_TQDM_BAR_COLUMNS: Final = 10
"""What tqdm makes of `{bar}` while it knows of no width."""


@final
class BatchLine:
    """The line of one batch, in the manner of tqdm and of its environment variables.

    Args:
        view: The batch when it begins.
        stream: Where the line will be written.
    """

    def __init__(self, view: View, stream: TextIO | None) -> None:
        self._bar = private_tqdm()(
            desc=printable(view.desc), total=view.total, file=stream, gui=True
        )
        self._past: deque[tuple[float, int]] = deque([(0.0, 0)])

    @property
    def disabled(self) -> bool:
        """Whether the user wants no bar (TQDM_DISABLE)."""
        return bool(self._bar.disable)

    def text(self, view: View, columns: int, *, final: bool = False) -> str:
        """Return the line, in so many columns; the final one has the rate of all the time."""
        rate = view.bytes_total / max(view.elapsed_s, 0.001) if final else self._rate(view)
        for layout in _layouts(view, size_text(view.bytes_total), f"{size_text(rate)}/s"):
            width = columns_of(self._format(view, layout))
            if "{bar}" in layout:
                width += _BAR_COLUMNS - _TQDM_BAR_COLUMNS
            if width <= columns:
                return self._format(view, layout, columns)
        return ""

    def close(self) -> None:
        """The batch is over."""
        self._bar.close()

    def _format(self, view: View, layout: str, columns: int | None = None) -> str:
        bar = self._bar
        return str(
            bar.format_meter(
                view.done,
                view.total,  # type: ignore[arg-type]  # None is how tqdm is told of no total
                view.elapsed_s,
                initial=view.resumed,
                ncols=columns,
                prefix=bar.desc,
                ascii=_characters(bar.ascii),
                bar_format=layout,
                colour=bar.colour,
            )
        )

    def _rate(self, view: View) -> float:
        """Bytes per second of the last seconds."""
        past = self._past
        past.append((view.elapsed_s, view.bytes_total))
        while len(past) > 2 and past[0][0] < view.elapsed_s - settings.RATE_WINDOW_S:  # noqa: PLR2004
            past.popleft()
        seconds = view.elapsed_s - past[0][0]
        return max(0, view.bytes_total - past[0][1]) / seconds if seconds else 0.0


def job_line(job: ShownJob, columns: int) -> str:
    """Return the line of a running job; with less room first less of the rest, then of its name."""
    size, mode = size_text(job.size_bytes), "" if job.mode is None else f" {job.mode}"
    rate = size_text(job.size_bytes / max(job.elapsed_s, 0.001))
    minutes, seconds = divmod(int(job.elapsed_s), 60)
    name = printable(job.name)
    if job.attempt > 1:
        name += f" (attempt {job.attempt})"
    rates = f"{minutes:02d}:{seconds:02d}, {rate}/s{mode and f',{mode}'}"
    marks = f" {_marks(job)}" if job.slow or job.quiet else ""
    mark = marks and f" {marks.split(maxsplit=1)[0]}"
    rests = (f": {size} [{rates}]{marks}", f": {size} [{rates}]{mark}", f": {size}{mode}{mark}")
    for rest in rests:
        room = columns - 2 - columns_of(rest)
        if room >= min(columns_of(name), _NAME_COLUMNS):
            return f"  {shortened(name, room)}{rest}"
    for rest in (f" {size}{mode}", f" {size}"):
        room = columns - columns_of(rest)
        if room >= min(columns_of(name), _SHORT_NAME_COLUMNS):
            return f"{shortened(name, room)}{rest}"
    return ""


def waiting_line(view: View, columns: int) -> str:
    """Return the line that says what a batch waits for; with less room less of its end."""
    return beginning(f"  waiting: {printable(view.waiting)}", columns)


def _marks(job: ShownJob) -> str:
    slow = "SLOW " if job.slow else ""
    return f"{slow}QUIET [> {_whole(job.quiet_s)}]" if job.quiet else slow.strip()


def _whole(seconds: float) -> str:
    return f"{int(seconds)} s" if seconds < 600 else f"{int(seconds / 60)} min"  # noqa: PLR2004


def facts(view: View) -> list[str]:
    """Return what is told of a batch besides its jobs: bytes, their rate, spilled, failed."""
    rate = size_text(view.bytes_total / max(view.elapsed_s, 0.001))
    return [
        size_text(view.bytes_total),
        f"{rate}/s",
        f"{view.spilled or 0} spilled",
        f"{view.failed} failed",
    ]


def columns_of(text: str) -> int:
    """Return how many columns a text takes on a terminal, as tqdm reckons."""
    if text.isascii() and "\x1b" not in text:  # without tqdm, which takes longer than a small job
        return len(text)
    return int(_part_of_tqdm("utils").disp_len(text))


def size_text(size: float) -> str:
    """Return a number of bytes in three digits or four: `118MB`, of 1024 KB each."""
    if size < 1000:  # noqa: PLR2004 - four digits
        return f"{size:.0f}B"
    power = 0
    while size >= 1023.5 and power < len(_UNITS) - 1:  # noqa: PLR2004
        size, power = size / settings.KIB, power + 1
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2  # noqa: PLR2004
    return f"{size:.{digits}f}{_UNITS[power]}"


def printable(text: str) -> str:
    """Return a text that moves no cursor and rings no bell."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shortened(name: str, columns: int) -> str:
    """Return a name with as much of its end as there is room for: there are the numbers."""
    if columns_of(name) <= columns:
        return name
    while (over := columns_of(name) - (columns - 1)) > 0:
        name = name[(over + 1) // 2 :]  # a letter takes two columns at most
    return f"…{name}"


def beginning(text: str, columns: int) -> str:
    """Return as much of the beginning of a text as there is room for."""
    if columns_of(text) <= columns:
        return text
    text = text[: max(0, columns - 1)]
    while text and columns_of(text) > columns - 1:
        text = text[:-1]
    return f"{text}…" if columns > 0 else ""


def _layouts(view: View, size: str, rate: str) -> Iterator[str]:
    """Yield formats for the line of a batch, each with less in it than the one before."""
    counts = [(view.spilled, "spilled"), (view.retried, "retried"), (view.failed, "failed")]
    always = ("failed",) if view.spilled is None else ("spilled", "failed")
    every = [f"{count} {what}" for count, what in counts if count or what in always]
    some = [f"{count} {what}" for count, what in counts if count]
    if view.total:
        bar, done = "{l_bar}{bar}| {n_fmt}/{total_fmt}", "{n_fmt}/{total_fmt}"
        short, times = "|{bar}| {n_fmt}/{total_fmt}", "{elapsed}<{remaining}"
    else:
        bar = "{desc}: {n_fmt} jobs" if view.desc else "{n_fmt} jobs"
        done = short = "{n_fmt} jobs"
        times = "{elapsed}"
    if view.spilled is None:
        jobs = (view.done - view.resumed) / max(view.elapsed_s, 0.001)
        yield f"{bar} [{', '.join([times, f'{jobs:.3g} jobs/s', size, rate, *every])}]"
    for parts in ([times, size, rate, *every], [times, size, rate, *some], [size, rate, *some]):
        yield f"{bar} [{', '.join(parts)}]"
    yield f"{bar} [{', '.join([size, *some])}]"
    yield " ".join([short, size, *some])
    yield " ".join([short, size, *some[-1:]])
    if view.failed:
        yield " ".join([done, size, some[-1]])
        yield " ".join([short, some[-1]])
        yield " ".join([done, some[-1]])
    yield f"{short} {size}"
    yield short
    yield done


@functools.cache
def private_tqdm(*, auto: bool = False) -> "type[tqdm[Any]]":
    """Return a tqdm that has for itself what all bars of a process share (I2).

    Args:
        auto: The one that draws in notebooks, if this is one.
    """
    base = _part_of_tqdm("auto" if auto else "std").tqdm

    class PrivateTqdm(base):  # type: ignore[misc, valid-type]
        monitor_interval = 0  # no thread of tqdm's
        _instances: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
        _lock = threading.RLock()

    return PrivateTqdm


@functools.cache
def _part_of_tqdm(name: str) -> Any:
    """Import a module of tqdm's, also where that raises since a TQDM_ variable makes no sense.

    Each of them is made a number, or what else it is to be, while tqdm is loaded.
    """
    module = f"tqdm.{name}"
    try:
        with loading(module):
            return importlib.import_module(module)
    except ValueError as error:
        if "tqdm.utils" not in sys.modules:
            raise
        refused = error
    variables = {key: value for key, value in os.environ.items() if key.startswith("TQDM_")}
    culprits = [key for key, value in variables.items() if repr(value) in str(refused)]
    _say_refused(" or ".join(culprits or variables), str(refused))
    seen_by_it = vars(sys.modules["tqdm.utils"])
    seen_by_it["os"] = _Heeded()
    try:
        with loading(module):
            return importlib.import_module(module)
    finally:
        seen_by_it["os"] = os


@final
class _Heeded:
    """The module `os` for tqdm, which sees those of its variables that bars of ours heed."""

    def __init__(self) -> None:
        self.environ = {key: os.environ[key] for key in _HEEDED if key in os.environ}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@functools.cache
def _characters(given: Any) -> Any:
    """Return what tqdm is to draw a bar with."""
    if isinstance(given, str) and len(given) == 1:
        _say_refused("TQDM_ASCII", "it needs two characters")
        return True
    return given


def _say_refused(variable: str, why: str) -> None:
    _logger.warning("tqdm refuses the value of %s (%s)", variable, why)

"""Scripts for a terminal: `python shows.py SCENARIO DIRECTORY`; each shows one batch.

Whoever runs one lets it go on by making files in the directory, and sees by files how far it is.
"""

import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from collector import Collector
from collector.progress.ends import Ended, How, Level
from collector.progress.show import Show, ShowOptions

MISSING: Final = "collector run --retry batch"
LIMIT_S: Final = 120.0


def wait_for(path: Path) -> None:
    """Wait until somebody has made that file."""
    end_s = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < end_s, f"nobody has made {path}"
        time.sleep(0.01)


def last_line(job: int) -> bytes:
    """The last lines of a job, of which the last would clear the screen."""
    return b"first\nsecond of %d \x1b[2J\n" % job


def options(**changes: Any) -> ShowOptions:
    """What is shown, as the environment says."""
    told: dict[str, Any] = {"total": 12, "slow_s": 0.2, "quiet_s": 1000.0}
    events = os.environ.get("EVENTS")
    if events:
        told["events"] = Path(events)
    for name, variable in (("show", "SHOW"), ("final_show", "FINAL")):
        if variable in os.environ:
            told[name] = Level(os.environ[variable])
    return ShowOptions(**(told | changes))


def fail(show: Show, job: int, name: str) -> None:
    """Tell of a job that has failed."""
    tail = b"\x1b[2Jone\n::error::two\n\tthree\nfour\nf\xffve\nsix\n"
    why = "exit status 3"
    show.ended(Ended(job=job, name=name, how=How.FAILED, seconds=1.5, why=why, tail=tail))


def rows(directory: Path) -> None:
    """Eleven jobs run; then one fails, one passes at its second attempt, the others pass."""
    with Show(options(), last_line=last_line) as show:
        for job in range(1, 12):
            show.started(job, f"job-{job}")
            show.wrote(job, 1000 * job)
        show.waiting("27 s for gate api: too many requests")
        print("<shown>", flush=True)
        wait_for(directory / "go")
        show.waiting("")
        fail(show, 1, "job-1")
        again = Ended(job=2, name="job-2", how=How.FAILED, again=True, why="killed by SIGKILL")
        show.ended(again)
        show.ended(Ended(job=2, name="job-2", attempt=2, attempts=3, size_bytes=2000))
        for job in range(3, 12):
            show.ended(Ended(job=job, name=f"job-{job}", size_bytes=1000))
        show.ended(Ended(job=12, name="job-12", how=How.INTERRUPTED, why="Ctrl-C"))
        show.say("<said\x1b[2J>")
        show.finish(MISSING)
    print("<the end>")


def held(directory: Path) -> None:
    """One job runs until it is let go; the script ends in the way that the environment says."""
    way = os.environ.get("WAY", "")
    with Show(options(), last_line=last_line) as show:
        show.started(1, "job-1")
        print("<shown>", flush=True)
        (directory / "shown").touch()
        wait_for(directory / "go")
        if way == "raise":
            raise RuntimeError("wanted")
        if way == "exit":
            sys.exit(3)
    if way == "stay":
        handlers = {signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTSTP)}
        print(f"<left {handlers == {signal.SIG_DFL}}>", flush=True)
        wait_for(directory / "leave")
    print("<the end>")


def never_left(directory: Path) -> None:
    """Nobody leaves the show: the interpreter does, when it ends."""
    show = Show(options())
    show.__enter__()
    show.started(1, "job-1")
    print("<shown>", flush=True)
    wait_for(directory / "go")


def forked(directory: Path) -> None:
    """A forked child gets the signal that asks for the running jobs."""
    with Show(options(), last_line=last_line) as show:
        show.started(1, "job-1")
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        print("<shown>", flush=True)
        wait_for(directory / "go")
    print("<the end>")


def hold(directory: Path) -> Iterator[bytes]:
    """Write a little, then wait to be let go."""
    yield b"x" * 1000
    wait_for(directory / "go")


def with_collector(directory: Path) -> None:
    """A Collector tells the show of starts and bytes."""
    with Show(options(total=4, slow_s=1000.0)) as show:
        with Collector(max_workers=2, progress=show) as collector:
            for job in collector.collect(hold, [directory] * 4):
                size_bytes = job.output().size
                show.ended(Ended(job=job.id, name=job.name, size_bytes=size_bytes))
        show.finish()
    print("<the end>")


def try_it(told: tuple[Path, int]) -> None:
    """The first succeeds at its second attempt, the second never."""
    directory, number = told
    if number == 2 or not (directory / "tried").exists():
        (directory / "tried").touch()
        raise ValueError("always" if number == 2 else "once")


def collect_with_retries(directory: Path) -> None:
    """A collect in which attempts fail."""
    with Collector(max_workers=1, retries=1) as collector:
        for _job in collector.collect(try_it, [(directory, 1), (directory, 2)]):
            pass
    print("<the end>")


def as_a_shell(directory: Path) -> None:
    """Do what a shell without job control of modes does: run `held` in the foreground, `fg` it."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, __file__, "held", directory], process_group=0)
    os.tcsetpgrp(0, child.pid)
    os.kill(child.pid, signal.SIGCONT)
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        os.tcsetpgrp(0, os.getpgrp())
        mode = termios.tcgetattr(0)[3] & (termios.ICANON | termios.ECHO)
        if not os.WIFSTOPPED(status):
            break
        print(f"<stopped {mode == termios.ICANON | termios.ECHO}>", flush=True)
        wait_for(directory / "fg")
        os.tcsetpgrp(0, child.pid)
        os.kill(child.pid, signal.SIGCONT)
    print(f"<ended {mode == termios.ICANON | termios.ECHO} {os.waitstatus_to_exitcode(status)}>")
    child.returncode = 0


def as_a_shell_with_a_background(directory: Path) -> None:
    """Run `held` in the background, and read a line meanwhile."""
    child = subprocess.Popen([sys.executable, __file__, "held", directory], process_group=0)
    wait_for(directory / "shown")
    print(f"<read {input()}>", flush=True)
    assert child.wait(LIMIT_S) == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))

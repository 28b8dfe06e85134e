"""Signals to a run: Ctrl-C once and twice, SIGTERM, SIGHUP, Ctrl-Z, kill -9 (fault 86)."""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import is_running, wait_until
from tests.support.running import QUIET, RUN, bytes_in_pipe, on_terminal

pytestmark = pytest.mark.slow


def pids(where: Path, count: int) -> list[int]:
    """Return the numbers that so many jobs have written."""

    def found() -> list[str]:
        file = where / "pids"
        return file.read_text().split() if file.exists() else []

    wait_until(lambda: len(found()) >= count)
    return [int(word) for word in found()]


class HeldExec:
    """A program that nobody can begin to run before `go_on`: a lease of ours has to be broken."""

    def __init__(self, program: Path) -> None:
        self._fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            os.close(self._fd)
            pytest.skip(f"no leases here: {error.strerror}")

    def wait(self) -> None:
        """Wait until somebody is about to run it."""
        assert signal.sigtimedwait({signal.SIGIO}, 30) is not None, "it is never started"

    def go_on(self) -> None:
        """Let it run; any number of times."""
        fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def close(self) -> None:
        """As `go_on`, for good."""
        os.close(self._fd)


@contextlib.contextmanager
def exec_held_up(program: Path) -> Iterator[HeldExec]:
    """Hold up whoever begins to run a program."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    try:
        with contextlib.closing(HeldExec(program)) as held:
            yield held
    finally:
        while signal.sigtimedwait({signal.SIGIO}, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


SLEEPS = "echo $$ >> pids; echo begun-{}; sleep 1000; echo never"
STUBBORN = "trap '' TERM; echo $$ >> pids; while :; do sleep 0.05; done; : {}"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_what_runs_and_starts_nothing_more(
    number: int, status: int, tmp_path: Path
) -> None:
    words = [*RUN, *QUIET, "-j2", SLEEPS, ":::", "1", "2", "3"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        running = pids(tmp_path, 2)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, b"")
    assert not any(map(is_running, running))
    assert len(pids(tmp_path, 2)) == 2


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    deaf = STUBBORN.replace("''", "'touch heard-{}'")
    words = [*RUN, "--grace", "600", "-j2", deaf, ":::", *map(str, range(100))]
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        running = pids(tmp_path, 2)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: list(tmp_path.glob("heard-*")))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.count(b"INTERRUPTED") == 2  # and nothing of what was never begun
    assert b"2 of 100 jobs: 2 interrupted" in said
    wait_until(lambda: not any(map(is_running, running)))


def test_a_signal_is_heard_that_does_not_interrupt_the_main_thread(tmp_path: Path) -> None:
    silent = "echo $$ >> pids; sleep 1000; : {}"  # its first byte would be news
    words = [*RUN, *QUIET, "--events", "events", "-j1", silent, ":::", "1"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        pids(tmp_path, 1)
        assert wait_until(lambda: b'"started"' in (tmp_path / "events").read_bytes())
        stat = Path(f"/proc/{process.pid}/stat")
        assert wait_until(lambda: stat.read_text().rpartition(") ")[2][0] == "S")
        others = set(os.listdir(f"/proc/{process.pid}/task")) - {str(process.pid)}
        # Another thread takes it, as where it comes between two steps of the main one.
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.tgkill(process.pid, int(min(others, key=int)), signal.SIGTERM) == 0
        try:
            assert process.wait(timeout=60) == 143
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["-k", "--line-buffer"])
def test_a_second_signal_ends_it_though_nobody_reads_on(kind: str, tmp_path: Path) -> None:
    script = "yes | head -c 300000; echo $$ >> pids; : {}"
    words = [*RUN, *QUIET, kind, "-j1", "--temp-root", str(tmp_path), script, ":::", "1", "2"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        pids(tmp_path, 1)
        full_bytes = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
        wait_until(lambda: bytes_in_pipe(process.stdout) == full_bytes)
        try:
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)  # one signal takes no output from who reads slowly
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 143
        finally:
            process.kill()
    assert [path.name for path in tmp_path.iterdir() if path.name != "pids"] == []


def test_a_command_that_is_just_being_started_gets_sigterm_too(tmp_path: Path) -> None:
    program, listener = tmp_path / "program", tmp_path / "listener"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    hears = "trap 'touch heard; exit 1' TERM; echo $$ >> pids; while :; do sleep 0.05; done"
    listener.write_text(f"#!/bin/sh\n{hears}\n")
    for file in (program, listener):
        file.chmod(0o755)
    words = [*RUN, "-j2", "{1}", "{2}", ":::", str(listener), str(program), ":::+", "1", "2"]
    with (
        exec_held_up(program) as held,
        subprocess.Popen(
            words, cwd=tmp_path, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process,
    ):
        held.wait()
        pids(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        wait_until((tmp_path / "heard").exists)  # what ran was told to end
        held.go_on()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"program 2: killed by SIGTERM" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["loads", "runs"])
def test_a_function_of_python_ends_before_the_grace_is_over(
    when: str, number: int, tmp_path: Path
) -> None:
    waits = "open('pids', 'a').write(f'{os.getpid()} '); time.sleep(1000)"
    loaded = waits if when == "loads" else ""
    (tmp_path / "waits.py").write_text(
        f"import os, time\n{loaded}\ndef work(_text):\n    {waits}\n"
    )
    words = [*RUN, *QUIET, "--grace", "600", "-j1", "--python", "waits:work", ":::", "1", "2"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        (running,) = pids(tmp_path, 1)
        process.send_signal(number)
        try:
            assert process.wait(timeout=30) == 128 + number
        finally:
            process.kill()
    wait_until(lambda: not is_running(running))


def test_the_time_for_which_the_run_is_stopped_is_no_part_of_the_grace(tmp_path: Path) -> None:
    """After Ctrl-C and Ctrl-Z, `fg` would kill what was about to end."""
    script = "trap 'echo asked >> pids' TERM; echo $$ >> pids; while [ ! -e go ]; do "
    script += "echo tick >> ticks; sleep 0.05; done; echo well >> pids; : {}"
    words = [*RUN, *QUIET, "--grace", "8", "-j1", script, ":::", "1"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL) as run:
        pids(tmp_path, 1)
        run.send_signal(signal.SIGINT)
        assert wait_until(lambda: "asked" in (tmp_path / "pids").read_text())
        run.send_signal(signal.SIGSTOP)
        time.sleep(9)
        run.send_signal(signal.SIGCONT)
        ticks = tmp_path / "ticks"
        before = len(ticks.read_text())
        wait_until(lambda: len(ticks.read_text()) > before + 50 or run.poll() is not None)
        (tmp_path / "go").touch()
        assert run.wait(timeout=60) == 130
    assert (tmp_path / "pids").read_text().endswith("well\n")


def test_after_the_grace_what_is_left_is_killed(tmp_path: Path) -> None:
    words = [*RUN, *QUIET, "--grace", "0.3", "-j1", STUBBORN, ":::", "1"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        (running,) = pids(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    wait_until(lambda: not is_running(running))


def test_lines_that_nobody_reads_end_also_what_ignores_sigterm(tmp_path: Path) -> None:
    script = "trap '' TERM; yes | head -c 300000; echo $$ >> pids; sleep 1000; : {}"
    words = [*RUN, *QUIET, "--line-buffer", "--grace", "0.3", script, ":::", "1"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        (running,) = pids(tmp_path, 1)
        full_bytes = fcntl.fcntl(process.stdout, fcntl.F_GETPIPE_SZ)
        wait_until(
            lambda: bytes_in_pipe(process.stdout) == full_bytes
        )  # a thread waits to write more
        process.stdout.close()
        try:
            assert process.wait(timeout=30) == 141
        finally:
            process.kill()
    wait_until(lambda: not is_running(running))


def test_what_was_done_is_printed_and_stays_done(tmp_path: Path) -> None:
    script = "[ {} = 1 ] && echo done-{} && exit; " + SLEEPS
    words = [*RUN, *QUIET, "-k", "-j1", "-o", "B", script, ":::", "1", "2"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        pids(tmp_path, 1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"done-1\n")


def test_killed_it_leaves_no_command_behind(tmp_path: Path) -> None:
    words = [*RUN, *QUIET, "-j2", SLEEPS, ":::", "1", "2"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        running = pids(tmp_path, 2)
        process.kill()
    wait_until(lambda: not any(map(is_running, running)))


def test_a_killed_worker_takes_its_command_with_it_and_fails_that_job(tmp_path: Path) -> None:
    script = "echo $PPID >> workers; " + SLEEPS
    words = [*RUN, *QUIET, "-j1", script, ":::", "1"]
    with subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        running = pids(tmp_path, 1)
        os.kill(int((tmp_path / "workers").read_text()), signal.SIGKILL)
        assert process.wait(timeout=60) == 1
    wait_until(lambda: not any(map(is_running, running)))


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    script = "echo $$ >> pids; until [ -e go ]; do sleep 0.05; done; echo {}"
    words = ["nohup", *RUN, *QUIET, script, ":::", "a"]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        pids(tmp_path, 1)
        process.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"a\n")


def test_on_a_terminal_ctrl_c_gives_it_back_with_130(tmp_path: Path) -> None:
    with on_terminal(f"$RUN -j2 '{SLEEPS}' ::: 1 2; echo status=$?", tmp_path) as shell:
        running = pids(tmp_path, 2)
        shell.press(b"\x03")
        shell.read_until(b"status=130")
        assert not any(map(is_running, running))
        shell.press(b"stty -a | tr ' ' '_'; echo end=$?\n")
        screen = shell.read_until(b"end=0")
        assert b"_icanon" in screen
        assert b"-icanon" not in screen.partition(b"status=130")[2]


def test_ctrl_z_stops_the_jobs_too_and_fg_continues_them(tmp_path: Path) -> None:
    script = "echo $$ >> pids; until [ -e go ]; do sleep 0.02; done; echo over-{}"
    with on_terminal(f"$RUN -j1 '{script}' ::: 1; echo status=$?", tmp_path) as shell:
        (running,) = pids(tmp_path, 1)

        def state() -> str:
            return Path(f"/proc/{running}/stat").read_text().rpartition(") ")[2][0]

        wait_until(lambda: state() in "SR")
        shell.press(b"\x1a")
        wait_until(lambda: state() == "T")
        shell.read_until(b"Stopped")
        (tmp_path / "go").touch()
        shell.press(b"fg\n")
        shell.read_until(b"over-1\r\n")
        shell.read_until(b"1 passed")  # until then keys are ours
        shell.press(b"echo still-here\n")
        shell.read_until(b"still-here\r\n")


def test_the_time_in_which_ctrl_z_has_stopped_a_job_is_not_its_own(tmp_path: Path) -> None:
    """It was ended by its time limit, which is shorter than the stop, as soon as it went on."""
    limit_s = 8
    script = "echo $$ >> pids; until [ -e go ]; do sleep 0.02; done; sleep 1; echo over-{}"
    with on_terminal(f"$RUN -j1 --timeout {limit_s} '{script}' ::: 1", tmp_path) as shell:
        pids(tmp_path, 1)
        shell.press(b"\x1a")
        shell.read_until(b"Stopped")
        threading.Event().wait(limit_s + 1)  # it is the time itself that is tried here
        (tmp_path / "go").touch()
        shell.press(b"fg\n")
        shell.read_until(b"over-1\r\n")
        shell.read_until(b"1 passed")

"""Clean-up of a process that uses run directories alone, on every exit that can be had."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from collector.store.rundir import cleanup
from collector.store.rundir.cleanup import clean_up, deferred, on_exit
from collector.store.rundir.directory import process_run_directory
from collector.store.rundir.reclaim import reclaim
from tests.support.rundirs import PRELUDE, REPOSITORY, a_process, names, needs_root, run_code
from tests.support.tiers import everyday_are
from tests.support.tree import thread_states

MAKE = """
run = process_run_directory(sys.argv[1])
fd, name = run.create_file('out')
os.write(fd, b'bytes')
os.close(fd)
path = run.path / name
"""


@pytest.fixture
def _restored() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored, where pytest runs under nohup
    yield
    clean_up()
    signal.signal(signal.SIGHUP, before)


def make_and_say(new_root: str, said: Connection) -> None:
    """Make a run directory in a child process, say where, and return."""
    said.send(str(process_run_directory(new_root).path))


class TestEndings:
    @pytest.mark.parametrize(
        ("ending", "status"),
        [
            ("", 0),
            ("sys.exit(3)", 3),
            ("raise ValueError('mine')", 1),
            ("raise KeyboardInterrupt", -signal.SIGINT),
            ("import threading; threading.Thread(target=lambda: 1 / 0).start()", 0),
        ],
    )
    def test_the_end_of_the_script_cleans(self, new_root: Path, ending: str, status: int) -> None:
        done = run_code(MAKE + "assert path.exists()\n" + ending, new_root)
        assert done.returncode == status, done.stderr
        assert names(new_root) == []

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    @pytest.mark.parametrize("busy", ["wait()", "while True: pass", "time.sleep(1000)"])
    def test_a_signal_cleans_and_stays_the_exit_status(
        self, new_root: Path, number: signal.Signals, busy: str
    ) -> None:
        with a_process(f"{MAKE}\nsay(1)\n{busy}", new_root) as other:
            other.hear()
            # A signal that comes between Python's last look for one and the system call that waits
            # is handled when that returns: where it waits, let it do so first.
            while busy != "while True: pass" and thread_states(other.pid) != {"S"}:
                os.sched_yield()
            assert other.kill(number) == -number
        assert names(new_root) == []

    @pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGABRT, signal.SIGKILL])
    def test_what_no_code_can_clean_is_left_to_the_next_sweep(
        self, new_root: Path, number: signal.Signals
    ) -> None:
        code = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))" + MAKE
        with a_process(code + "say(1)\nwait()", new_root) as other:
            other.hear()
            assert other.kill(number) == -number
        assert len(names(new_root)) == 1
        assert len(reclaim([new_root]).reclaimed) == 1
        assert names(new_root) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_the_end_of_a_child_process_cleans(
        self, new_root: Path, package: str, method: str
    ) -> None:
        code = f"""
import {package}
context = {package}.get_context({method!r})
heard, said = context.Pipe(duplex=False)
for _ in range(2):  # the second is forked with what the first has left, where there is any
    child = context.Process(target=make_and_say, args=(sys.argv[1], said))
    child.start()
    say(heard.recv().startswith(os.path.join(sys.argv[1], "run-")))
    child.join()
    say(child.exitcode, os.listdir(sys.argv[1]))
    process_run_directory(sys.argv[2])
"""
        helpers = "from tests.store.test_cleanup import make_and_say\n"
        done = run_code(helpers + code, new_root, new_root.parent / "parents")
        assert done.stdout == "True\n0 []\n" * 2, done.stderr
        assert names(new_root.parent / "parents") == []

    def test_the_end_of_a_child_process_takes_nothing_from_a_thread_that_goes_on(
        self, new_root: Path
    ) -> None:
        code = """
import multiprocessing, threading
gate = threading.Event()

def write():
    path = process_run_directory(sys.argv[1]).path
    gate.set()
    while threading.main_thread().is_alive():
        time.sleep(0.001)
    say(path.exists())

def child():
    threading.Thread(target=write).start()
    gate.wait()

child = multiprocessing.get_context("fork").Process(target=child)
child.start()
child.join()
"""
        done = run_code(code, new_root)
        assert done.stdout == "True\n", done.stderr
        # From Python 3.13 on multiprocessing runs exit functions, when the threads have ended.
        assert len(reclaim([new_root]).reclaimed) == (sys.version_info < (3, 13))

    def test_leaving_by_os_exit_is_left_to_the_next_sweep(self, new_root: Path) -> None:
        run_code(MAKE + "os._exit(0)", new_root)
        assert len(reclaim([new_root]).reclaimed) == 1

    def test_an_except_for_ctrl_c_finds_the_outputs_still_there(self, new_root: Path) -> None:
        code = (
            MAKE
            + """
try:
    say(1)
    wait()
except KeyboardInterrupt:
    say(path.read_bytes())
"""
        )
        with a_process(code, new_root) as other:
            other.hear()
            other.process.send_signal(signal.SIGINT)
            assert other.hear() == "b'bytes'"
            assert other.end() == 0
        assert names(new_root) == []

    def test_ctrl_c_on_a_terminal_is_one_keyboard_interrupt(self, new_root: Path) -> None:
        primary, secondary = pty.openpty()
        take_terminal = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        code = PRELUDE + take_terminal + MAKE + "say('go')\nwait()"
        try:
            with subprocess.Popen(
                [sys.executable, "-c", code, new_root],
                stdin=secondary,
                stdout=secondary,
                stderr=secondary,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)},
            ) as child:
                os.close(secondary)
                seen = b""
                while b"go" not in seen:
                    seen += os.read(primary, 1000)
                os.write(primary, b"\x03")
                with contextlib.suppress(OSError):
                    while more := os.read(primary, 1000):
                        seen += more
            assert child.returncode == -signal.SIGINT
            assert seen.count(b"KeyboardInterrupt") == 1
        finally:
            os.close(primary)
        assert names(new_root) == []


class TestSignals:
    @pytest.mark.parametrize("theirs", ["before", "after"])
    def test_a_handler_of_the_users_is_left_alone_and_decides(
        self, new_root: Path, theirs: str
    ) -> None:
        install = """
def handler(number, frame):
    say('mine', path.exists())
signal.signal(signal.SIGTERM, handler)
"""
        parts = (install, MAKE) if theirs == "before" else (MAKE, install)
        with a_process("".join(parts) + "say(1)\nwait()\nsay(path.exists())", new_root) as other:
            other.hear()
            other.process.send_signal(signal.SIGTERM)
            assert other.hear() == "mine True"
            other.tell()
            assert other.hear() == "True"
            assert other.end() == 0
        assert names(new_root) == []

    def test_a_handler_of_the_users_may_go_on_to_ours(self, new_root: Path) -> None:
        code = (
            MAKE
            + """
ours = signal.getsignal(signal.SIGTERM)
def handler(number, frame):
    say('mine')
    ours(number, frame)
signal.signal(signal.SIGTERM, handler)
say(1)
wait()
"""
        )
        with a_process(code, new_root) as other:
            other.hear()
            assert other.kill(signal.SIGTERM) == -signal.SIGTERM
            assert other.hear() == "mine"
        assert names(new_root) == []

    def test_an_ignored_hangup_stays_ignored(self, new_root: Path) -> None:
        with a_process(
            MAKE + "say(1)\nwait()\nsay(path.exists())", new_root, wrapper=("nohup",)
        ) as other:
            other.hear()
            other.process.send_signal(signal.SIGHUP)
            other.tell()
            assert other.hear() == "True"
            assert other.end() == 0

    def test_outside_the_main_thread_no_handler_is_installed(self, new_root: Path) -> None:
        code = """
import threading
def use():
    global run
    run = process_run_directory(sys.argv[1])
thread = threading.Thread(target=use)
thread.start()
thread.join()
say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
        done = run_code(code, new_root)
        assert done.stdout == "True\n", done.stderr
        assert names(new_root) == []

    @needs_root
    def test_the_first_process_of_a_container_installs_none(self, new_root: Path) -> None:
        code = MAKE + "say(os.getpid(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
        wrapper = ("unshare", "--pid", "--fork", "--kill-child")
        done = run_code(code, new_root, wrapper=wrapper)
        assert done.stdout == "1 True\n", done.stderr
        assert names(new_root) == []

    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_a_second_signal_leaves_at_once_and_the_sweep_finds_the_rest(
        self, new_root: Path, second: signal.Signals
    ) -> None:
        code = (
            MAKE
            + """
def slow():
    say('cleaning')
    time.sleep(1000)
cleanup.on_exit(slow)
say(1)
time.sleep(1000)
"""
        )
        with a_process(code, new_root) as other:
            other.hear()
            other.process.send_signal(signal.SIGTERM)
            assert other.hear() == "cleaning"
            status = other.kill(second)
            assert status == -(signal.SIGTERM if second == signal.SIGINT else second)
        assert len(names(new_root)) == 1
        assert len(reclaim([new_root]).reclaimed) == 1

    @pytest.mark.parametrize(
        "number", everyday_are([signal.SIGTERM], of=[signal.SIGTERM, signal.SIGHUP])
    )
    def test_a_signal_at_any_step_of_making_or_disposing_leaves_nothing(
        self, new_root: Path, number: signal.Signals
    ) -> None:
        done = run_code(STRIKE_AT_EVERY_STEP, new_root, str(int(number)))
        assert done.stderr == ""
        steps, bad = done.stdout.split(maxsplit=1)
        assert int(steps) > 30
        assert bad == "[]\n"


STRIKE_AT_EVERY_STEP = """
import filelock, json

def use(strike_at):
    steps = 0
    def hook(name):
        real = getattr(kernel, name)
        def hooked(*args, **kwargs):
            nonlocal steps
            result = real(*args, **kwargs)
            steps += 1
            if steps == strike_at:
                os.kill(os.getpid(), int(sys.argv[2]))
            return result
        setattr(kernel, name, hooked)
    reclaim.start_sweep = lambda root: None  # its thread takes steps of its own, and this counts
    for name in 'mkdir open_fd flock stat write close rename unlink rmdir'.split():
        hook(name)
    with cleanup.deferred():
        open_root(sys.argv[1])  # before this there is nothing to leave
    process_run_directory(sys.argv[1]).dispose()
    return steps

from collector.store.rundir.root import open_root
bad, strike_at, status = [], 0, -1
while status:
    strike_at += 1
    child = os.fork()
    if child == 0:
        os._exit(0 if use(strike_at) < strike_at else 77)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = os.listdir(sys.argv[1])
    if left or status not in (0, -int(sys.argv[2])):
        bad.append((strike_at, status, left))
say(strike_at, bad)
"""


class TestForks:
    @pytest.mark.parametrize(
        "ending", ["sys.exit(0)", "os.kill(os.getpid(), signal.SIGTERM)", "raise ValueError"]
    )
    def test_a_forked_child_cleans_nothing_of_its_parents(
        self, new_root: Path, ending: str
    ) -> None:
        code = (
            MAKE
            + f"""
child = os.fork()
if child == 0:
    {ending}
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
say(path.exists(), status)
"""
        )
        done = run_code(code, new_root)
        expected = {"s": 0, "o": -signal.SIGTERM, "r": 1}[ending[0]]
        assert done.stdout == f"True {expected}\n"
        assert names(new_root) == []

    def test_a_forked_child_starts_with_default_handlers_and_cleans_its_own(
        self, new_root: Path
    ) -> None:
        code = (
            MAKE
            + """
child = os.fork()
if child == 0:
    say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    own = process_run_directory(sys.argv[1])
    say(own.path.exists(), signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
os.waitpid(child, 0)
say(os.listdir(sys.argv[1]) == [run.path.name])
"""
        )
        done = run_code(code, new_root)
        assert done.stdout == "True\nTrue False\nTrue\n", done.stderr
        assert names(new_root) == []

    def test_a_child_forked_while_a_signal_was_held_back_is_not_deaf(self) -> None:
        code = """
cleanup.on_exit(lambda: None)
with cleanup.deferred():
    child = os.fork()
    if child == 0:
        cleanup.on_exit(lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        done = run_code(code)
        assert done.stdout == f"{-signal.SIGTERM}\n", done.stderr


@pytest.mark.usefixtures("_restored")
class TestRegistration:
    def test_handlers_are_there_only_while_something_is_registered(self) -> None:
        def is_default() -> bool:
            return all(
                signal.getsignal(number) is signal.SIG_DFL
                for number in (signal.SIGTERM, signal.SIGHUP)
            )

        assert is_default()
        forget_first = on_exit(lambda: None)
        forget_second = on_exit(lambda: None)
        forget_first()
        forget_first()
        assert not is_default()
        forget_second()
        assert is_default()

    def test_the_newest_is_cleaned_first_and_each_once(self) -> None:
        cleaned: list[int] = []
        on_exit(lambda: cleaned.append(1))
        forget = on_exit(lambda: cleaned.append(2))
        on_exit(lambda: cleaned.append(3))
        forget()
        clean_up()
        clean_up()
        assert cleaned == [3, 1]

    def test_one_failure_does_not_stop_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        cleaned: list[int] = []
        on_exit(lambda: cleaned.append(1))
        on_exit(lambda: cleaned.append(1 // 0))
        clean_up()
        assert cleaned == [1]
        assert len(caplog.records) == 1

    def test_a_signal_waits_for_the_end_of_a_deferred_block(self) -> None:
        code = """
cleanup.on_exit(lambda: say('cleaned'))
with cleanup.deferred():
    with cleanup.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        say('inner')
    say('outer')
say('never')
"""
        done = run_code(code)
        assert (done.stdout, done.returncode) == ("inner\nouter\ncleaned\n", -signal.SIGTERM)

    def test_a_second_signal_does_not_wait(self) -> None:
        code = """
cleanup.on_exit(lambda: say('cleaned'))
with cleanup.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    say('first')
    os.kill(os.getpid(), signal.SIGTERM)
    say('never')
"""
        done = run_code(code)
        assert (done.stdout, done.returncode) == ("first\n", -signal.SIGTERM)

    def test_other_threads_pass_through_a_deferred_block(self) -> None:
        def use() -> None:
            with deferred():
                assert cleanup._exit.depth == 0

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

"""Run one command as a job: its stdout is the job's output, its stderr the log.

Runs in:    the worker.
Owns:       the child process and its process group until it has ended, and the read ends of two
            pipes.
Invariants: I1  the job ends when the command does. What is in its pipes then is taken, and nothing
                later: what it has left in the background is left alone.
            I2  the group of a running command is named to whoever ends the worker; before it is
                there, the pipe that it will write to.
            I3  a command is waited for after its group has ceased to be named: its number is its
                own as long as anybody may send a signal to it.
"""

import contextlib
import errno
import fcntl
import os
import select
import shutil
import signal
import struct
import termios
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, final

from collector import settings
from collector.batch.command.ended import CommandError, CommandTimeoutError, Ended
from collector.batch.command.shell import ShellTemplate
from collector.batch.command.template import Inputs, Words
from collector.errors import RetryLater
from collector.process.start.launcher import open_pidfd
from collector.process.worker.running import current_job

if TYPE_CHECKING:
    from collector.process.worker.current_job import CurrentJob

_READ_BYTES: Final = 256 * 1024
_SMALL_PIPE_BYTES: Final = 64 * 1024
_PIPE_BYTES: Final = 1024 * 1024
_INT: Final = struct.Struct("i")
_LOOK_ALIVE_MS: Final = 1000
"""Longest wait of a command with a time limit: a longer one was a stop (Ctrl-Z) in between."""
_LOOK_AGAIN_MS: Final = 10
"""So often is looked whether a command has ended, where no descriptor tells."""
_RESET: Final = tuple(
    number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)
)
_SHELL: Final = b"/bin/sh"
_NOT_FOUND: Final = 127
_CANNOT_RUN: Final = 126
"""The exit statuses that a shell has for a command which it cannot start."""


class Plan(NamedTuple):
    """What all commands of a batch have in common; a worker is told once.

    Attributes:
        template: Makes the command.
        shell: The program that runs scripts.
        grace_s: Seconds between SIGTERM and SIGKILL.
        max_output: Bytes that a job may write; None for any number.
        nice: Is added to the niceness.
        batch: The batch directory, or "".
        slots: Path of a file in which each worker locks the byte of its slot; "" for slot 1.
        jobs: How many slots there are.
        later_s: Seconds after which a command is run again that asks for it.
    """

    template: Words | ShellTemplate
    shell: str
    grace_s: float
    max_output: int | None
    nice: int
    batch: str
    slots: str
    jobs: int
    later_s: float


class Call(NamedTuple):
    """What one command is told."""

    values: tuple[str, ...]
    seq: int
    key: str
    attempt: int
    timeout_s: float | None


@final
class _Prepared:
    """The plan of this process, and what is made of it once."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.environment: dict[bytes, bytes] = {}
        self.shell = _SHELL
        self.slot = 1


_prepared: Final = _Prepared()


def prepare(plan: Plan) -> None:
    """Take the plan, before the first job of a worker."""
    _prepared.plan = plan
    _prepared.environment = dict(os.environb)
    _prepared.shell = os.fsencode(plan.shell)
    leave_terminal()
    _prepared.slot = take_slot(plan.slots, plan.jobs)
    _prepared.environment[b"COLLECTOR_SLOT"] = b"%d" % _prepared.slot
    if plan.batch:
        _prepared.environment[b"COLLECTOR_BATCH"] = os.fsencode(plan.batch)
    else:  # that of a batch of which this run is a job
        _prepared.environment.pop(b"COLLECTOR_BATCH", None)
    if plan.nice:
        os.nice(plan.nice)


def leave_terminal() -> None:
    """Have no controlling terminal, nor have what is started here.

    A job is no job of the shell: whoever read its terminal, or changed its mode, was stopped for
    ever. Now there is none: ENXIO.
    """
    with contextlib.suppress(OSError):  # there is none already
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, termios.TIOCNOTTY)
        finally:
            os.close(fd)


def take_slot(path: str, count: int) -> int:
    """Take a slot that no other worker has; the lock goes with this process, however it ends."""
    if not path:
        return 1
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # kept open: closing it would unlock
    except OSError:  # no /proc, or not for us
        return 1
    for slot in range(1, count + 1):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            continue
        return slot
    return count


def run(call: Call) -> Ended:
    """Run the command of one call.

    Raises:
        CommandError: It failed: it could not be started, had an exit status other than 0, was
            killed, or wrote too much.
        CommandTimeoutError: It ran too long.
        RetryLater: It asked for that, with exit status 75.
    """
    plan = _prepared.plan
    assert plan is not None
    inputs = Inputs(call.values, call.seq, _prepared.slot)
    environment = _prepared.environment.copy()
    environment[b"COLLECTOR_SEQ"] = b"%d" % call.seq
    environment[b"COLLECTOR_KEY"] = call.key.encode()
    environment[b"COLLECTOR_ATTEMPT"] = b"%d" % call.attempt
    template = plan.template
    if isinstance(template, Words):
        arguments = [os.fsencode(word) for word in template.render(inputs)]
    else:
        script = template.script(len(call.values))
        arguments = [_prepared.shell, b"-c", os.fsencode(script.text)]
        for name, value in script.environment(inputs).items():
            environment[name.encode()] = os.fsencode(value)
    with _Child(arguments, environment) as child:
        return child.finish(plan, call.timeout_s)


@final
class _End:
    """When a child of this process has ended: a descriptor tells, or else it is looked for.

    Raises:
        OSError: No descriptor is to be had.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        found = open_pidfd(pid)
        self.descriptors = [] if found is None else [found]
        """One becomes readable then, unless there are none here."""
        self.longest_ms = None if self.descriptors else _LOOK_AGAIN_MS
        """For so long it can be waited."""

    def has_come(self, ready: Sequence[int]) -> bool:
        """Tell, by the descriptors that can be read; the child is not collected."""
        if self.descriptors:
            return self.descriptors[0] in ready
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._pid, options) is not None

    def close(self) -> None:
        """Close the descriptor."""
        for fd in self.descriptors:
            os.close(fd)


@final
class _Child:
    """A running command."""

    def __init__(self, arguments: Sequence[bytes], environment: dict[bytes, bytes]) -> None:
        self._job: Final[CurrentJob] = current_job()
        self._start = time.time()
        self._start_s = time.monotonic()
        self._log_bytes = self._written = 0
        self._why = ""
        self._asked = self._timed_out = False
        self._deadline_s: float | None = None
        self._limit_s = 0.0
        self._pid = self._group = 0
        """Of the command and its group, while it is there."""
        self._out, self._err, out, err = _two_pipes()
        own = self._job.lead(-os.fstat(out).st_ino)
        try:
            self._pid = _spawn(arguments, environment, (out, err), own_group=own)
            self._group = self._pid if own else 0
            self._end = _End(self._pid)
        except (OSError, ValueError) as error:
            self._let_go()
            self._job.lead(0)
            raise self._not_started(arguments, error) from None
        finally:
            os.close(out)
            os.close(err)
        if own:
            self._job.lead(self._pid)

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_error: object) -> None:
        self._let_go()
        self._end.close()

    def _let_go(self) -> None:
        if self._pid:  # broken off, by a full disk for example
            self._send(signal.SIGKILL)
            self._reap()
        os.close(self._out)
        os.close(self._err)

    def finish(self, plan: Plan, timeout_s: float | None) -> Ended:
        """Take what it writes until it has ended; say how that was."""
        if timeout_s is not None:
            self._limit_s = timeout_s
            self._deadline_s = self._start_s + timeout_s
        self._take_all(plan)
        code = os.waitstatus_to_exitcode(self._reap())
        seconds = time.monotonic() - self._start_s
        if not code and not self._why:
            return Ended(self._start, seconds, self._log_bytes, slot=_prepared.slot)
        if code == os.EX_TEMPFAIL and not self._why:
            raise RetryLater(plan.later_s, message=f"exit status {code}")
        return self._fail(code, seconds)

    def _take_all(self, plan: Plan) -> None:
        poller = select.poll()
        for fd in (self._out, self._err, *self._end.descriptors):
            poller.register(fd, select.POLLIN)
        while True:
            pause_ms, since_s = self._pause_ms(), time.monotonic()
            ready = [fd for fd, _ in poller.poll(pause_ms)]
            self._forgive(since_s, pause_ms)
            for fd in ready:
                if fd in (self._out, self._err) and not self._take(fd, _READ_BYTES, plan):
                    poller.unregister(fd)
            if self._end.has_come(ready):
                self._drain(plan)
                return
            if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
                if not self._asked:
                    self._timed_out = True
                    self._why = f"ran longer than its {self._limit_s:g} s, and was ended"
                self._end_it(plan)

    def _take(self, fd: int, size: int, plan: Plan) -> int:
        data = os.read(fd, size)
        if not data:
            return 0
        if fd == self._err:
            assert self._job.log is not None
            self._job.log.write(data)
            self._log_bytes += len(data)
            return len(data)
        if len(data) >= _SMALL_PIPE_BYTES > self._written:
            _enlarge(fd)
        room = len(data) if plan.max_output is None else plan.max_output - self._written
        taken = data if len(data) <= room else data[: max(room, 0)]
        if taken:
            self._job.write(taken)
            self._written += len(taken)
        if len(data) > room and not self._why:
            self._why = f"wrote more than the {plan.max_output} bytes of --max-output"
            self._end_it(plan)
        return len(data)

    def _drain(self, plan: Plan) -> None:
        """Take what is in the pipes now."""
        for fd in (self._out, self._err):
            here: int
            (here,) = _INT.unpack(fcntl.ioctl(fd, termios.FIONREAD, bytes(_INT.size)))
            while here > 0 and (taken := self._take(fd, min(here, _READ_BYTES), plan)):
                here -= taken

    def _end_it(self, plan: Plan) -> None:
        """Send SIGTERM, and SIGKILL once the grace is over."""
        if self._asked:
            self._send(signal.SIGKILL)
            self._deadline_s = None
            return
        self._asked = True
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # one that is stopped would not hear it
        self._deadline_s = time.monotonic() + plan.grace_s

    def _pause_ms(self) -> float | None:
        if self._deadline_s is None:
            return self._end.longest_ms
        left_ms = max(0.0, self._deadline_s - time.monotonic()) * 1000 + 1
        return min(left_ms, self._end.longest_ms or _LOOK_ALIVE_MS)

    def _forgive(self, since_s: float, pause_ms: float | None) -> None:
        """A wait is over: if it was much too long, all was stopped, and that does not count."""
        if pause_ms is not None and self._deadline_s is not None:
            overslept_s = time.monotonic() - since_s - pause_ms / 1000
            if overslept_s > settings.SUSPENDED_S:
                self._deadline_s += overslept_s

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._group:
                os.killpg(self._group, number)
            else:
                os.kill(self._pid, number)

    def _reap(self) -> int:
        if self._asked:  # what ends a command ends its group
            self._send(signal.SIGKILL)
        self._job.lead(0)
        pid, self._pid = self._pid, 0
        return os.waitpid(pid, 0)[1]

    def _fail(self, code: int, seconds: float) -> NoReturn:
        number = -code if code < 0 else None
        exitcode = None if code < 0 else code
        why = self._why or (f"killed by {_name_of(number)}" if number else f"exit status {code}")
        ended = Ended(self._start, seconds, self._log_bytes, exitcode, number, _prepared.slot)
        kind = CommandTimeoutError if self._timed_out else CommandError
        raise self._error(kind, why, ended)

    def _not_started(self, arguments: Sequence[bytes], error: OSError | ValueError) -> CommandError:
        program = os.fsdecode(arguments[0]) or "''"
        status = _CANNOT_RUN
        if isinstance(error, ValueError):
            why = "could not be started: an input has a NUL byte, which no argument can have"
        elif error.errno == errno.E2BIG:
            why = (
                "could not be started: its inputs are longer than the system takes (128 KiB each, "
                "2 MiB all together): put them into files"
            )
        else:
            status = _NOT_FOUND if error.errno == errno.ENOENT else _CANNOT_RUN
            why = f"could not be started: {program}: {error.strerror}"
            if status == _NOT_FOUND and " " in program and len(arguments) > 1:
                why += "; a script is one quoted text, behind the options"
        seconds = time.monotonic() - self._start_s
        ended = Ended(self._start, seconds, 0, status, slot=_prepared.slot)
        return self._error(CommandError, why, ended)

    def _error(self, kind: type[CommandError], why: str, ended: Ended) -> CommandError:
        job = self._job
        return kind(why, job.id, job.name, job.attempt, tuple(ended))


def _two_pipes() -> tuple[int, int, int, int]:
    """Return the ends to read from, then those to write to."""
    out = os.pipe()
    try:
        err = os.pipe()
    except OSError:
        for fd in out:
            os.close(fd)
        raise
    return out[0], err[0], out[1], err[1]


def _spawn(
    arguments: Sequence[bytes],
    environment: dict[bytes, bytes],
    pipes: tuple[int, int],
    *,
    own_group: bool,
) -> int:
    """Start a command; a file that is no program and has no first line `#!` is a script."""
    out, err = pipes
    more: dict[str, Any] = {"setpgroup": 0} if own_group else {}

    def start(words: list[bytes]) -> int:
        if not words[0]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.posix_spawnp(
            words[0],
            words,
            environment,
            file_actions=((os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)),
            setsigmask=(),
            setsigdef=_RESET,
            **more,
        )

    try:
        return start(list(arguments))
    except OSError as error:
        found = shutil.which(arguments[0]) if error.errno == errno.ENOEXEC else None
        if found is None:
            raise
        return start([_prepared.shell, found, *arguments[1:]])


def _enlarge(fd: int) -> None:
    # Not Linux, or this user has too many large ones: it holds less.
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

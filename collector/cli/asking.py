"""Ask running Collectors, each of which may be stopped, stuck, gone or not be what it seems.

Runs in:    the process of a command.
Invariants: I1  no Collector is waited for longer than `ASKING_PATIENCE_S`.
"""

import contextlib
import errno
import os
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, final

from collector import settings
from collector.store.rundir.ask_socket import reach, wait_without_end
from collector.store.rundir.reclaim import live_runs
from collector.wire.questions import Question, QuestionError, pack_question, read_answer

Answer = dict[str, Any]

_AT_ONCE: Final = 32
_PIECE_BYTES: Final = 64 * 1024
_ANSWER_BYTES: Final = 64 * 1024 * 1024
_RIGHTS_BYTES: Final = socket.CMSG_SPACE(16 * array("i").itemsize)


class AskError(Exception):
    """A Collector has not answered, or that it cannot; says why."""


@final
class SilentError(AskError):
    """Nobody listens there: it has run no job yet, ends or has ended, or was not to be asked."""


def ask(run: str, question: Question) -> Answer:
    """Ask a Collector, and return its answer of one line.

    Args:
        run: Path of its run directory.
        question: What to ask.

    Raises:
        AskError: There is no answer.
    """
    with contextlib.closing(Asking(run, question)) as asking:
        return next(asking.lines())


def ask_all(
    runs: Sequence[str], question: Question, came_s: dict[str, float] | None = None
) -> dict[str, "Answer | AskError"]:
    """Ask several at once; returns what each has answered, or why it has not.

    Args:
        runs: Paths of their run directories.
        question: What to ask.
        came_s: Is told when each answer came, by the monotonic clock: others may have kept it
            waiting here.
    """

    def asked(run: str) -> "Answer | AskError":
        try:
            answer = ask(run, question)
        except AskError as error:
            return error
        if came_s is not None:
            came_s[run] = time.monotonic()
        return answer

    if not runs:
        return {}
    with ThreadPoolExecutor(min(len(runs), _AT_ONCE)) as executor:
        return dict(zip(runs, executor.map(asked, runs), strict=True))


@final
class Asking:
    """A question that was asked, and what comes of it.

    Args:
        run: Path of its run directory.
        question: What to ask.
        printed_to: Descriptor of what is printed to; None if there is none to be watched.

    Attributes:
        descriptors: Those that have come and that no line was read for yet.

    Raises:
        AskError: It cannot be asked.
    """

    def __init__(self, run: str, question: Question, printed_to: int | None = None) -> None:
        self.descriptors: deque[int] = deque()
        self._run = run
        self._kind = question.kind
        self._printed_to = printed_to
        self._deadline_s = time.monotonic() + settings.ASKING_PATIENCE_S
        try:
            packed = pack_question(question)
            self._end = reach(run, settings.ASKING_PATIENCE_S)
        except (FileNotFoundError, ConnectionRefusedError):
            raise SilentError(f"{run} does not answer: nobody listens there") from None
        except (OSError, QuestionError) as error:
            raise self._failed(error) from None
        try:
            self._end.sendall(packed)
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            raise self._hung_up() from None
        except OSError as error:
            self.close()
            raise self._failed(error) from None

    def lines(self) -> Iterator[Answer]:
        """Yield what is answered, as it comes.

        Raises:
            AskError: The answer is that there is none, or does not come in time.
            BrokenPipeError: Nobody reads what is printed any more.
        """
        rest = b""
        first = True
        while piece := self._receive(first=first):
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > _ANSWER_BYTES:
                raise AskError(f"{self._run} answers without an end")
            for line in whole:
                yield self._read(line, first=first)
                first = False
        if first:
            raise self._hung_up()

    def goes_on(self) -> bool:
        """Whether the run answers still; a process that dies takes connections, too."""
        try:
            ask(self._run, Question("top"))
        except AskError:
            return False
        return True

    def hang_up(self) -> None:
        """Have nothing more come; in any thread."""
        with contextlib.suppress(OSError):  # the other end has hung up
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._end.close()
        while self.descriptors:
            os.close(self.descriptors.popleft())

    def _receive(self, *, first: bool) -> bytes:
        if first and time.monotonic() > self._deadline_s:
            raise self._failed(TimeoutError())
        if not first:  # from now on a silence is no sign of anything
            wait_without_end(self._end)
            self._wait()
        try:
            piece, rights, _, _ = self._end.recvmsg(
                _PIECE_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:  # it has not even read what was asked
            return b""
        except OSError as error:
            raise self._failed(error) from None
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array("i")
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                self.descriptors.extend(fds)
        return piece

    def _wait(self) -> None:
        """Wait for more, as long as somebody reads what is printed."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        if self._printed_to is not None:
            poll.register(self._printed_to, 0)  # an error, or the end of whoever reads, is told
        if self._printed_to in dict(poll.poll()):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def _read(self, line: bytes, *, first: bool) -> Answer:
        answer = None
        with contextlib.suppress(QuestionError):
            answer = read_answer(self._kind, line)
        if first and answer is not None and isinstance(answer.get("error"), str):
            raise AskError(answer["error"])
        # A descriptor comes with the line that tells of it; those of earlier lines are taken.
        lacks = answer is not None and answer.get("file") and not self.descriptors
        if answer is None or lacks or answer.keys() == {"error"}:
            raise AskError(f"{self._run} answers what nobody understands; is it another version?")
        return answer

    def _hung_up(self) -> AskError:
        """Say that there was no answer: it has ended meanwhile, unless somebody listens still."""
        try:
            reach(self._run, settings.ASKING_PATIENCE_S).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return SilentError(f"{self._run} has ended without an answer")
        except OSError:  # it is stopped, say
            pass
        return AskError(f"{self._run} has hung up without an answer")

    def _failed(self, error: Exception) -> AskError:
        if isinstance(error, TimeoutError | BlockingIOError):
            return AskError(
                f"{self._run} has not answered within {settings.ASKING_PATIENCE_S:g} s: "
                "its process is stopped, or has no time"
            )
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return AskError(f"{self._run} cannot be asked: {said}")


def find_run(wanted: str | None, roots: list[str] | None) -> str:
    """Return the path of the one run directory that is meant.

    Args:
        wanted: The name of a run or its beginning, its path, or a directory in which it lies or
            whose batch it runs; None for the only one.
        roots: Where to look.

    Raises:
        AskError: It is none, or not one alone.
    """
    runs = live_runs(roots)
    if wanted is None:
        answers = ask_all(runs, Question("top"))
        found = [run for run in runs if not isinstance(answers[run], SilentError)]
        what = "no Collector runs that can be asked"
    else:
        named = [run for run in runs if _is_named(run, wanted)]
        # A directory may be called as a run begins: then it is not for us to choose.
        found = list(dict.fromkeys(named + _of_batch(runs, wanted)))
        what = (
            f"no live run has the name {wanted!r} or its beginning, or runs a batch of that name; "
            "`collector ls` lists them"
        )
    if not found:
        raise AskError(what)
    if len(found) > 1:
        raise AskError(
            f"several runs are meant, name one: {', '.join(map(os.path.basename, found))}"
        )
    return found[0]


def _is_named(run: str, wanted: str) -> bool:
    name = os.path.basename(run)
    return bool(wanted) and (name.startswith((wanted, f"run-{wanted}")) or run == wanted)


def _of_batch(runs: list[str], wanted: str) -> list[str]:
    """Return the runs that lie in a directory, or that run the batch that it is."""
    if not os.path.isdir(wanted):
        return []
    directory = os.path.realpath(wanted)
    inside = [run for run in runs if os.path.realpath(run).startswith(directory + os.sep)]
    if inside or os.path.realpath(directory) in runs:
        return inside or [directory]
    answers = ask_all(runs, Question("top"))
    return [run for run in runs if _runs_batch(answers[run], directory)]


def _runs_batch(answer: "Answer | AskError", directory: str) -> bool:
    batch = None if isinstance(answer, AskError) else answer.get("batch")
    return isinstance(batch, str) and os.path.realpath(batch) == directory


def done_of_total(answer: Answer) -> str:
    """Say how far a run is."""
    total = answer["total"]
    return str(answer["done"]) if total is None else f"{answer['done']} of {total}"

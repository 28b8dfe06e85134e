"""Answers those who ask this Collector from another process of the same user.

Runs in:    the parent: in the supervising thread as long as nobody asks, then in the answering one,
            which is started for the first who does and leaves with the last.
Owns:       the place where it can be asked, the answering thread, the connections.
Invariants: I1  whoever asks can hold up nothing: no act on a connection waits, each connection has
                a deadline, their number is limited, and the thread rests after some acts.
            I2  nothing that came is unpickled, and another user gets no answer.
            I3  no socket, thread or file of it is left when `close` returns.
"""

import contextlib
import itertools
import os
import socket
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any, Final, Protocol, final

from collector import settings
from collector.logger import PackageLogger
from collector.process.pool.followers import Followable, Follower, Followers, News
from collector.process.pool.mailbox import Mailbox
from collector.process.queue.poller import Poller
from collector.store.rundir.ask_place import AskPlace
from collector.store.rundir.ask_socket import hang_up
from collector.store.rundir.current_directory import CurrentDirectory
from collector.wire.questions import (
    QUESTION_BYTES,
    Question,
    QuestionError,
    pack_answer,
    read_question,
)

_logger: Final = PackageLogger()


class Asked(Protocol):
    """Who is asked (`Pool`): each of these may be called in any thread, and none waits."""

    def describe(self) -> dict[str, Any]:
        """Return the answer to "top"."""

    def find(self, job: str) -> list[Followable]:
        """Return the jobs of that number, or else of that name, that are not over."""

    def known_to_run(self) -> list[Followable]:
        """Return the jobs that run."""

    def follow(self, job_id: int) -> None:
        """Have a job's output in a file while it runs."""

    def end(self, job: Followable) -> None:
        """Have a job ended."""


class _Connection:
    """One who asks."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.question = bytearray()
        self.answer: list[News] = []
        self.follower: Follower | None = None
        self.asked = False
        self.since_s = time.monotonic()
        """Since when we wait for it: for its question, or for it to read the answer. Only
        `Answering._waits` changes it."""

    @property
    def owes(self) -> bool:
        """Whether we wait for it, so that its deadline counts."""
        return not self.asked or bool(self.answer)


@final
class Answering:
    """Answers for one Collector.

    Args:
        directory: Its run directory.
        asked: Knows the answers.
    """

    def __init__(self, directory: CurrentDirectory, asked: Asked) -> None:
        self.followers: Final = Followers(self._post)
        self._directory = directory
        self._asked = asked
        self._place = AskPlace(directory)
        self._outside: Poller | None = None
        self._note: Callable[[Callable[[], None]], None] = _ignore
        self._mailbox: Mailbox[Callable[[], object]] | None = None
        self._thread: threading.Thread | None = None
        self._watch: Poller | None = None
        self._connections: dict[_Connection, None] = {}
        """In the order of `since_s`: those that we have waited for longest come first."""
        self._acts = 0
        self._stopping = False

    # -- in the supervising thread -----------------------------------------------------------------

    def open(self, watch: Poller, note: Callable[[Callable[[], None]], None]) -> None:
        """Begin to listen, once, before the supervising thread has started.

        Args:
            watch: That thread's.
            note: Leaves a note for it.
        """
        if self._outside is not None:
            return
        self._outside, self._note = watch, note
        self._place.open()
        self._listen_outside()

    def moved(self) -> None:
        """Listen in the run directory that there is now: it is another one."""
        if self._mailbox is not None:
            self._mailbox.note(self._move_inside)
        elif self._place.socket is not None and self._outside is not None:
            self._outside.forget(self._place.socket.listening.fileno())
            self._place.moved()
            self._listen_outside()

    def _listen_outside(self) -> None:
        if self._place.socket is not None and self._outside is not None and self._mailbox is None:
            self._outside.expect(self._place.socket.listening.fileno(), self._somebody_asks)

    def _somebody_asks(self) -> None:
        if self._place.socket is None or self._outside is None or self._stopping:
            return
        self._outside.forget(self._place.socket.listening.fileno())
        former, self._thread = self._thread, None
        if former is not None:
            former.join()  # it has left its last note
        try:
            self._mailbox = Mailbox()
            self._watch = Poller()
            thread = threading.Thread(target=self._answer_all, name="collector-answer", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:  # no descriptor, or no thread, is to be had
            _logger.debug("the Collector cannot be asked any more: %s", error)
            self._let_go()
            self._place.stop_listening()
            return
        self._thread = thread

    # -- in any thread -----------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is ready to be sent, and leave; the last job is settled."""
        self._stopping = True
        self._post(bool)
        if self._thread is not None:
            self._thread.join()
        self._place.close()

    def abandon(self) -> list[int]:
        """In a forked child: return the descriptors to be closed; `ask_socket` closes its own."""
        mailbox, self._mailbox = self._mailbox, None
        if self._watch is not None:
            self._watch.close()
        return [] if mailbox is None else mailbox.detach()

    def _post(self, act: Callable[[], object]) -> None:
        mailbox = self._mailbox
        if mailbox is not None:
            mailbox.note(act)

    # -- in the answering thread -------------------------------------------------------------------

    def _answer_all(self) -> None:
        watch, mailbox = self._watch, self._mailbox
        if watch is None or mailbox is None:
            return
        try:
            watch.expect(mailbox.fileno(), mailbox.clear)
            self._listen_inside()
            self._acts = 0
            self._accept()
            self._rest()
            while self._connections and not self._stopping:
                self._round(watch, mailbox)
            for act in mailbox.notes():
                act()
            for follower in self.followers:
                follower.end()
        except Exception:  # a bug of ours: the jobs go on, and nobody gets an answer
            _logger.exception("the answering thread failed")
        finally:
            for connection in list(self._connections):
                if connection.follower is not None:
                    self._tell_news(connection, connection.follower)
                self._drop(connection)
            self._let_go()
            self._note(self._listen_outside)

    def _let_go(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        if mailbox is not None:
            for act in mailbox.notes():  # left until now: where the run directory is, for one
                act()
            mailbox.close()

    def _round(self, watch: Poller, mailbox: Mailbox[Callable[[], object]]) -> None:
        self._acts = 0
        for handle in watch.ready(self._pause_s()):
            handle()
        for act in mailbox.notes():
            act()
        for connection in list(self._connections):
            if connection.follower is not None:
                self._tell_news(connection, connection.follower)
        late_s = time.monotonic() - settings.ASKING_DEADLINE_S
        late = itertools.takewhile(lambda c: c.since_s <= late_s, self._connections)
        for connection in [c for c in late if c.owes]:
            self._drop(connection)
        self._rest()

    def _rest(self) -> None:
        if self._acts >= settings.ASKING_PORTION:
            time.sleep(settings.ASKING_PAUSE_S)

    def _pause_s(self) -> float | None:
        since_s = next((c.since_s for c in self._connections if c.owes), None)
        if since_s is None:
            return None
        return max(0.0, since_s + settings.ASKING_DEADLINE_S - time.monotonic())

    def _waits(self, connection: _Connection) -> None:
        """From now on we wait for it."""
        connection.since_s = time.monotonic()
        if connection in self._connections:  # not for one that was dropped
            del self._connections[connection]
            self._connections[connection] = None

    def _listen_inside(self) -> None:
        if self._place.socket is not None and self._watch is not None:
            self._watch.expect(self._place.socket.listening.fileno(), self._accept)

    def _move_inside(self) -> None:
        if self._place.socket is not None:
            if self._watch is not None:
                self._watch.forget(self._place.socket.listening.fileno())
            self._place.moved()
            self._listen_inside()

    def _accept(self) -> None:
        while self._acts < settings.ASKING_PORTION and self._place.socket is not None:
            try:
                end = self._place.socket.accept()
            except OSError:  # no descriptor is to be had: whoever asks has to try again
                self._acts = settings.ASKING_PORTION
                self._make_room(0)
                return
            if end is None:
                return
            self._acts += 1
            self._make_room(settings.ASKING_LIMIT - 1)
            connection = _Connection(end)
            self._connections[connection] = None
            self._hear(connection)

    def _make_room(self, most: int) -> None:
        """Let go of the one that has said nothing for longest, if there are more than so many."""
        if len(self._connections) > most:
            silent = next((c for c in self._connections if c.follower is None), None)
            if silent is not None:
                self._drop(silent)

    def _hear(self, connection: _Connection) -> None:
        try:
            came = connection.end.recv(QUESTION_BYTES)
        except BlockingIOError:
            self._wait_for(connection)
            return
        except OSError:
            came = b""
        if not came or connection.asked:  # it has gone, or says more than a question
            self._drop(connection)
            return
        connection.question += came
        line, newline, _ = bytes(connection.question).partition(b"\n")
        if not newline and len(line) < QUESTION_BYTES:
            self._wait_for(connection)
            return
        self._acts += 1
        connection.asked = True
        self._waits(connection)
        try:
            if not newline or len(line) >= QUESTION_BYTES:
                raise QuestionError(f"a question is one line of at most {QUESTION_BYTES} bytes")  # noqa: TRY301
            self._answer(connection, read_question(line))
        except QuestionError as wrong:
            connection.answer.append((pack_answer({"error": str(wrong)}), None))
        if connection.follower is None:
            self._send(connection)
        else:  # what is known by now: there may be no news for long
            self._tell_news(connection, connection.follower)

    def _answer(self, connection: _Connection, question: Question) -> None:
        """Answer a question.

        Raises:
            QuestionError: It cannot be answered; says why.
        """
        if question.kind == "top":
            connection.answer.append((pack_answer(self._asked.describe()), None))
        elif question.kind == "kill":
            job = self._one(question.job or "")
            self._asked.end(job)
            told = {"job": job.known_as or job.id, "name": job.name}
            connection.answer.append((pack_answer(told), None))
        elif len(self.followers) >= settings.ASKING_LIMIT // 2:
            raise QuestionError("too many follow jobs of this Collector already")
        elif question.job is None:
            connection.follower = self._follower(None)
            connection.follower.greet()
            for job in self._asked.known_to_run():
                self._asked.follow(job.id)
                connection.follower.begin(job)
        else:
            job = self._one(question.job)
            if not job.id:
                raise QuestionError(f"job {job.name} waits to be run: follow it when it runs")
            follower = self._follower(job.id)
            if job not in self._asked.find(
                question.job
            ):  # it has ended before anybody could tell of it
                self.followers.discard(follower)
                raise QuestionError(f"job {job.name} is over")
            connection.follower = follower
            self._asked.follow(job.id)
            follower.begin(job)

    def _follower(self, only: int | None) -> Follower:
        follower = Follower(only, self._directory, lambda: self._post(bool))
        self.followers.add(follower)
        return follower

    def _one(self, job: str) -> Followable:
        found = self._asked.find(job)
        if not found:
            raise QuestionError(f"no job {job!r} runs or waits here: see collector top")
        if len(found) > 1:
            numbers = ", ".join(str(one.known_as or one.id) for one in found[:10])
            raise QuestionError(
                f"{len(found)} jobs have the name {job!r}: give a number ({numbers})"
            )
        number = found[0].known_as or found[0].id
        if job.isascii() and job.isdecimal() and number != int(job):
            # The one of that number may just have ended: it was meant, and not this one.
            raise QuestionError(
                f"no job {job!r} runs or waits here; the one of that name has the number {number}"
            )
        return found[0]

    def _tell_news(self, connection: _Connection, follower: Follower) -> None:
        """Send what has come; more is left to the follower as long as that is not read."""
        while connection in self._connections:
            follower.look()
            if not connection.answer:
                self._waits(connection)
                connection.answer += follower.news
                follower.news.clear()
            self._send(connection)
            if connection.answer and len(follower.news) > settings.ASKING_NEWS:
                self._drop(connection)
            if connection.answer or not follower.news:
                return

    def _send(self, connection: _Connection) -> None:
        """Send what can be sent now; drop the connection when nothing more will come."""
        while connection.answer:
            line, fd = connection.answer[0]
            rights = (
                [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))]
            )
            try:
                sent = connection.end.sendmsg([line], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:  # whoever asked has gone
                self._drop(connection)
                return
            self._waits(connection)
            if fd is not None:
                os.close(fd)
            connection.answer[0] = line[sent:], None
            if sent == len(line):
                del connection.answer[0]
        follower = connection.follower
        over = follower is None or (follower.over and not follower.news)
        if not connection.answer and over and connection.asked:
            self._drop(connection)
        else:
            self._wait_for(connection)

    def _wait_for(self, connection: _Connection) -> None:
        if self._watch is not None and connection in self._connections:
            writing = bool(connection.answer)  # and reads nothing: its end would always be ready
            self._watch.expect(
                connection.end.fileno(),
                lambda: self._ready(connection),
                reading=not writing,
                writing=writing,
            )

    def _ready(self, connection: _Connection) -> None:
        if connection.answer:
            self._send(connection)
        if connection in self._connections and not connection.answer:
            self._hear(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        del self._connections[connection]
        if self._watch is not None:
            with contextlib.suppress(ValueError):
                self._watch.forget(connection.end.fileno())
        for _, fd in connection.answer:
            if fd is not None:
                os.close(fd)
        connection.answer.clear()
        if connection.follower is not None:
            self.followers.discard(connection.follower)
        hang_up(connection.end)


def _ignore(_act: Callable[[], None]) -> None:
    """Do nothing: no thread supervises yet."""

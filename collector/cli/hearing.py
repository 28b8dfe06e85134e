"""Hear what a Collector tells of the jobs that are followed, however slowly that is printed.

A Collector lets go of whoever does not read. One who looks at a page of `less` is not to be that:
all is heard at once, and what is told of one job before it is printed is joined.

Runs in:    the process of a command: a thread that hears, and the main one, which prints.
Owns:       the descriptors that came, until they are yielded.
Invariants: I1  what waits to be printed grows with the jobs that it is about, not with time, and no
                more is heard while that is `_MOST_WAIT` of them.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

from collector.cli.asking import Answer, Asking

_MOST_WAIT: Final = 256


@final
@dataclass(slots=True, eq=False)
class News:
    """What has become known of one job.

    Attributes:
        job: Its number; `NO_JOB` if it is about the run.
        name: Its name, if it has begun.
        fd: Descriptor of its file, if that has come.
        bytes: How much of it can be read.
        ended: Whether nothing more comes of it.
        error: Why it failed, if it did.
    """

    job: int
    name: str = ""
    fd: int | None = None
    bytes: int = 0
    ended: bool = False
    error: str | None = None


@final
class Hearing:
    """Hears all that is answered.

    Args:
        asking: The question; from now on its answers are heard here alone.
    """

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._changed = threading.Condition()
        self._waiting: deque[News] = deque()
        self._open: dict[int, News] = {}
        """Those which wait of jobs that have not ended, by the numbers of these."""
        self._over = self._closed = False
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._hear, name="collector-hear", daemon=True)
        self._thread.start()

    def news(self) -> Iterator[News]:
        """Yield what is told, to the end; raises what `Asking.lines` does."""
        while (news := self._next()) is not None:
            yield news
        if self._failed is not None:
            raise self._failed

    def close(self) -> None:
        """Hear no more, and let go of what was not yielded."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._asking.hang_up()
        self._thread.join()
        for news in self._waiting:
            if news.fd is not None:
                os.close(news.fd)
        self._waiting.clear()

    def _next(self) -> News | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                return None
            news = self._waiting.popleft()
            self._open.pop(news.job, None)
            self._changed.notify_all()
            return news

    def _hear(self) -> None:
        try:
            for said in self._asking.lines():
                if not self._take(said):
                    break
        except Exception as error:  # noqa: BLE001 - raised for whoever prints
            self._failed = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _take(self, said: Answer) -> bool:
        """Join an answer to what waits; returns False if nobody wants more."""
        with self._changed:
            news = self._open.get(said["job"])
            if news is None:
                self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAIT or self._closed)
                if self._closed:
                    return False
                news = self._open[said["job"]] = News(said["job"])
                self._waiting.append(news)
            if said.get("file"):
                news.fd = self._asking.descriptors.popleft()
            news.name = said.get("name") or news.name
            news.bytes = said.get("bytes") or news.bytes
            if said.get("ended"):
                news.ended, news.error = True, said.get("error")
                del self._open[news.job]
            self._changed.notify_all()
            return True

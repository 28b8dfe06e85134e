"""Log records of jobs, from the worker to the handlers of the parent.

Runs in:    `forward` and `stop` in the worker; `levels` and `Records` in the parent, where
            records are emitted in the settling thread.
Invariants: I1  a record is emitted in the parent once, with `job_id` and `job_name`.
            I2  records that come too fast for the handlers are dropped and counted, not kept.
"""

import logging
import pickle
import threading
from collections.abc import Callable
from typing import Final, final

from collector import settings
from collector.logger import PackageLogger

_logger = PackageLogger()
_NOT_FOR_PARENT: Final = ("exc_info", "exc_text", "args", "msg")
_PLAIN: Final = (str, int, float, bool, type(None))


def levels() -> dict[str, int]:
    """Return the levels that are set in this process, by logger; the root's under ""."""
    found = {str.__str__(name): logger.level for name, logger in _loggers().items()}
    set_here = {"": logging.root.level} | {name: level for name, level in found.items() if level}
    # A level or a name may be a member of an enum of the script, which no worker has yet.
    return {name: int(level) for name, level in set_here.items()}


def _loggers() -> dict[str, logging.Logger]:
    """Return all loggers but the root."""
    known = logging.root.manager.loggerDict.copy()
    return {name: logger for name, logger in known.items() if isinstance(logger, logging.Logger)}


def forward(set_levels: dict[str, int], publish: Callable[[bytes], None]) -> None:
    """From now on send what this process logs to the parent, and nowhere else."""
    for name, level in set_levels.items():
        logging.getLogger(name or None).setLevel(level)
    # In a forked worker these are copies: the parent applies its own handlers and filters.
    for logger in _loggers().values():
        logger.handlers.clear()
        logger.filters.clear()
        logger.propagate = True
    logging.root.handlers[:] = [_Forwarder(publish)]


def stop() -> None:
    """In a process that a job forked: print what it logs, as Python does without a handler."""
    logging.root.handlers.clear()


class _Forwarder(logging.Handler):
    def __init__(self, publish: Callable[[bytes], None]) -> None:
        super().__init__()
        self._publish = publish

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._publish(_packed(record))
        except Exception:  # noqa: BLE001
            # As every handler does: a record that cannot be sent must not end the job.
            self.handleError(record)


def _packed(record: logging.LogRecord) -> bytes:
    """Return the record as plain values: its text formatted, its traceback as text."""
    most = settings.RECORD_CHARS
    text = record.getMessage()
    trace = record.exc_text
    if record.exc_info and not trace:
        trace = logging.Formatter().formatException(record.exc_info)
    fields = {k: _plain(v) for k, v in vars(record).items() if k not in _NOT_FOR_PARENT}
    # By these the parent finds the logger: they are what they hold, also as members of an enum.
    name: object = record.name or "root"
    fields["name"] = str.__str__(name) if isinstance(name, str) else str(name)
    fields["levelno"] = int(record.levelno)
    packed = pickle.dumps(fields | {"msg": text[:most], "exc_text": trace and trace[-most:]})
    if len(packed) <= settings.PIPE_PAYLOAD_BYTES:
        return packed
    needed = ("name", "levelno", "levelname", "created", "msecs", "process", "processName")
    short = {key: fields[key] for key in needed if key in fields} | {"msg": text[: most // 8]}
    return pickle.dumps(short)


def _plain(value: object) -> object:
    """Return a value that can be unpickled everywhere: anything but plain ones becomes text."""
    if type(value) not in _PLAIN:
        try:
            value = str(value)
        except Exception:  # noqa: BLE001 - code of the user's: the record goes without that text
            value = f"<{type(value).__name__} without a text>"
    return value[: settings.RECORD_CHARS] if isinstance(value, str) else value


@final
class Records:
    """The parent's end.

    Args:
        later: Has something done in the settling thread.
    """

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._lock = threading.Lock()  # held for a moment, never while a handler runs
        self._waiting = self._bytes = 0
        self._dropped = 0

    def take(self, packed: bytes, job_id: int, job_name: str) -> None:
        """Have a record emitted soon; if too many wait, drop it, until half of them are emitted."""
        with self._lock:
            more = self._bytes + len(packed)
            if (
                self._dropped
                or self._waiting >= settings.RECORDS_WAITING
                or more > settings.RECORDS_WAITING_BYTES
            ):
                self._dropped += 1
                return
            self._waiting += 1
            self._bytes = more
        self._later(lambda: self._emit(packed, job_id, job_name))

    def _emit(self, packed: bytes, job_id: int, job_name: str) -> None:
        try:
            fields = pickle.loads(packed) | {"job_id": job_id, "job_name": job_name}
            record = logging.makeLogRecord(fields)
            if record.levelname == f"Level {record.levelno}":  # has no name in the worker
                record.levelname = logging.getLevelName(record.levelno)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        finally:
            self._emitted(len(packed))

    def _emitted(self, size: int) -> None:
        dropped = 0
        with self._lock:
            self._waiting -= 1
            self._bytes -= size
            if (
                self._waiting <= settings.RECORDS_WAITING // 2
                and self._bytes <= settings.RECORDS_WAITING_BYTES // 2
            ):
                dropped, self._dropped = self._dropped, 0
        if dropped:
            _logger.warning("%d log records of jobs came too fast and were dropped", dropped)

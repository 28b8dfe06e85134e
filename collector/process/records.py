"""Log records of jobs, from the worker to the handlers of the parent.

Runs in:    `forward` in the worker; `Records` in the parent, its `emit` in the settling thread.
Invariants: I1  a record is emitted in the parent once, with `job_id` and `job_name`.
            I2  records that come too fast for the handlers are dropped and counted, not kept.
"""

import contextlib
import logging
import pickle
from collections.abc import Callable
from typing import Any, Final, final

from collector import settings

_logger = logging.getLogger("collector")
_NOT_FOR_PARENT: Final = ("exc_info", "stack_info", "args")


def levels() -> dict[str, int]:
    """Return the levels that are set in this process, by logger; the root's under ""."""
    names = list(logging.root.manager.loggerDict)
    found = {name: logging.getLogger(name).level for name in names}
    return {"": logging.root.level} | {name: level for name, level in found.items() if level}


def forward(set_levels: dict[str, int], publish: Callable[[bytes], None]) -> None:
    """From now on send what this process logs to the parent, and nowhere else."""
    for name, level in set_levels.items():
        logging.getLogger(name or None).setLevel(level)
    logging.root.handlers[:] = [_Forwarder(publish)]


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
    fields: dict[str, Any] = {
        key: value
        for key, value in vars(record).items()
        if isinstance(value, (str, int, float, bool, type(None))) and key not in _NOT_FOR_PARENT
    }
    fields |= {"msg": text[:most], "exc_text": trace and trace[-most:]}
    extras = {k: v[:most] if isinstance(v, str) else v for k, v in fields.items()}
    packed = pickle.dumps(extras)
    if len(packed) <= settings.PIPE_PAYLOAD_BYTES:
        return packed
    needed = ("name", "levelno", "levelname", "created", "msecs", "process", "processName")
    short = {key: extras[key] for key in needed if key in extras} | {"msg": text[: most // 8]}
    return pickle.dumps(short)


@final
class Records:
    """The parent's end.

    Args:
        later: Has something done in the settling thread.
    """

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._taken = 0  # counted by the supervising thread alone,
        self._emitted = 0  # and this by the settling one: no count is lost between them
        self._dropped = 0

    def take(self, packed: bytes, job_id: int, job_name: str) -> None:
        """Emit a record soon."""
        if self._taken - self._emitted >= settings.RECORDS_WAITING:
            self._dropped += 1
            return
        self._taken += 1
        self._later(lambda: self._emit(packed, job_id, job_name))

    def _emit(self, packed: bytes, job_id: int, job_name: str) -> None:
        self._emitted += 1
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            _logger.warning("%d log records of jobs came too fast and were dropped", dropped)
        fields = pickle.loads(packed) | {"job_id": job_id, "job_name": job_name}
        with contextlib.suppress(KeyError):
            record = logging.makeLogRecord(fields)
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

"""What other processes of the user ask a Collector, and how it is answered: lines of JSON.

One question a connection. `top` and `kill` have one line for an answer. `follow` has a line for
each thing that becomes known of a job, and with the one that says `"file"` comes a descriptor of
the file in which the job's output lies: a reader takes the bytes from there, as far as `"bytes"`
says, so that none of them waits in the Collector for a reader.

Pure: no I/O.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

QUESTION_BYTES: Final = 4096
"""Longest question with its newline: a name of a job is in it."""

NAME_CHARS: Final = 1000
"""Most characters of a name in an answer."""

NO_JOB: Final = 0
"""In the place of a job's number, to one who follows all: the first line, for it may be long until
a job begins, and the last one, with `"ended"`: the run has ended, and that was all."""

KINDS: Final = ("top", "follow", "kill")


class QuestionError(ValueError):
    """What came is no question; says why."""


class Question(NamedTuple):
    """A question.

    Attributes:
        kind: "top", "follow" or "kill".
        job: Name or number of the job that it is about; None for all.
    """

    kind: str
    job: str | None = None


def pack_question(question: Question) -> bytes:
    """Return the line that asks this.

    Raises:
        QuestionError: It is too long.
    """
    line = json.dumps(question._asdict()).encode() + b"\n"
    if len(line) > QUESTION_BYTES:
        raise QuestionError("the name of the job is too long to ask for: give its number")
    return line


def read_question(line: bytes) -> Question:
    """Return what a line asks.

    Raises:
        QuestionError: It asks nothing that can be answered.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise QuestionError("a question is one line of JSON") from None
    kind, job = (found.get("kind"), found.get("job")) if isinstance(found, dict) else (None, None)
    if kind not in KINDS or not (job is None or isinstance(job, str)):
        raise QuestionError(f"a question has a kind ({', '.join(KINDS)}), and may name a job")
    if kind == "kill" and job is None:
        raise QuestionError("kill needs a job")
    return Question(kind, job)


def pack_answer(answer: dict[str, Any]) -> bytes:
    """Return the line of an answer; what a name has of half a character is escaped."""
    return json.dumps(answer).encode() + b"\n"


def read_answer(kind: str, line: bytes) -> dict[str, Any]:
    """Return what a line answers: all that its reader needs, or `error` alone.

    Args:
        kind: Of the question.
        line: Of whoever listens there.

    Raises:
        QuestionError: It has another form.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    form = _ERROR if isinstance(found, dict) and found.keys() == {"error"} else _FORMS[kind]
    if not _has(form)(found):
        raise QuestionError(f"this is no answer to {kind}")
    answer: dict[str, Any] = found
    return answer


_Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _NUMBERS_END


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _has(form: Mapping[str, _Check]) -> _Check:
    """Return what looks at an object: a field that is not there is None."""
    return lambda value: (
        isinstance(value, dict) and all(check(value.get(name)) for name, check in form.items())
    )


def _each(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


_NUMBERS_END: Final = 2**63
_ERROR: Final = {"error": _is_text}
_JOB: Final = {
    "job": _is_count,
    "name": _is_text,
    "attempt": _is_count,
    "seconds": _is_number,
    "bytes": _is_count,
}
_FORMS: Final[Mapping[str, Mapping[str, _Check]]] = {
    "top": {
        "run": _is_text,
        "pid": _is_count,
        "batch": _or_none(_is_path),
        "done": _is_count,
        "failed": _is_count,
        "total": _or_none(_is_count),
        "bytes": _is_count,
        "memory_bytes": _is_count,
        "running": _each(_has(_JOB)),
    },
    "follow": {
        "job": _is_count,
        "name": _or_none(_is_text),
        "bytes": _or_none(_is_count),
        "error": _or_none(_is_text),
    },
    "kill": {"job": _is_count, "name": _is_text},
}


def shortened(name: str) -> str:
    """Return a name as an answer has it."""
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"

"""What other processes of the user ask a Collector, and how it is answered: lines of JSON.

One question a connection. `top` and `kill` have one line for an answer. `follow` has a line for
each thing that becomes known of a job, and with the one that says `"file"` comes a descriptor of
the file in which the job's output lies: a reader takes the bytes from there, as far as `"bytes"`
says, so that none of them waits in the Collector for a reader.

Pure: no I/O.
"""

import json
from typing import Any, Final, NamedTuple

QUESTION_BYTES: Final = 4096
"""Longest question with its newline: a name of a job is in it."""

NAME_CHARS: Final = 1000
"""Most characters of a name in an answer."""

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


def shortened(name: str) -> str:
    """Return a name as an answer has it."""
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"

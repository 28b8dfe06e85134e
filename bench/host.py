"""The process that one contender runs in, and the runner's end of it.

Contenders never share a process: none inherits threads, a large heap or warm caches of another. A
line on stdin asks for one measurement, the answer is one line of JSON.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

from bench.case import Contender

TIMEOUT_S: Final = 300.0
"""A contender that takes longer for one measurement hangs, and is left out."""

CLOSE_S: Final = 30.0
"""A contender that has not left by then is killed."""

_ROOT: Final = Path(__file__).parents[1]


class MissingError(Exception):
    """A contender cannot be measured here; the text says why."""


class Host:
    """One contender in its process, as the runner sees it."""

    def __init__(self, contender: Contender, directory: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.host", contender.function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env=environment(directory),
            start_new_session=True,
        )
        self._buffered = b""
        self._say(json.dumps(dict(contender.arguments)))

    def measure(self) -> dict[str, float]:
        """Return the figures of one more run; that of a single one has the name "".

        Raises:
            MissingError: There are none.
        """
        self._say("")
        answer = json.loads(self._line() or '{"missing": "its process ended"}')
        if "missing" in answer:
            raise MissingError(answer["missing"])
        figures: dict[str, float] = answer["figures"]
        return figures

    def close(self) -> None:
        """End the process; it cleans up after itself, or is killed with all that it started."""
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _say(self, line: str) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{line}\n".encode())
                self._process.stdin.flush()

    def _line(self) -> bytes:
        stdout = self._process.stdout
        if stdout is None or not select.select([stdout], [], [], TIMEOUT_S)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)
            return b""
        return stdout.readline()


def environment(directory: str) -> dict[str, str]:
    """Let a contender work in `directory`, and find compiled modules as an installed one does."""
    mine = {
        "COLLECTOR_BENCH_DIR": directory,
        "COLLECTOR_TMPDIR": os.path.join(directory, "root"),
        "PYTHONPATH": os.fspath(_ROOT),
    }
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | mine


def main() -> None:
    """Measure once for each line that comes."""
    answers = os.fdopen(os.dup(1), "w")
    os.set_inheritable(answers.fileno(), False)
    os.dup2(2, 1)  # what jobs print goes elsewhere
    module, _, name = sys.argv[1].partition(":")
    lines = iter(sys.stdin.readline, "")
    try:
        arguments = json.loads(next(lines))
        with contextlib.closing(getattr(import_module(module), name)(**arguments)) as measurements:
            for _ in lines:
                found = next(measurements)
                figures = found if isinstance(found, dict) else {"": found}
                print(json.dumps({"figures": figures}), file=answers, flush=True)
    except (ImportError, MissingError) as error:
        print(json.dumps({"missing": str(error)}), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Lines of a running job, as `--line-buffer` and `collector follow` print them."""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from collector.batch.command import printing
from collector.batch.command.finishing import Finished, Finisher, FinishSettings
from collector.batch.command.outcome import Outcome
from collector.batch.command.printing import Printer
from collector.cli.follow import _Output
from collector.store.output.output import Output

PIECE = b"x" * 4096
PIECES = 10_000


class Running:
    """A job that writes one long line, a piece at a time, then a short one and half of one."""

    def follow(self) -> Iterator[bytes]:
        """See `Job.follow`."""
        yield b"first\n"
        for _ in range(PIECES):
            yield PIECE
        yield b"\nshort\nha"
        yield b"lf"


def test_a_long_line_is_not_put_together_anew_for_each_of_its_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed: list[bytes] = []
    monkeypatch.setattr(printing, "write_whole", lambda _fd, data: printed.append(data))
    finisher = Finisher(
        FinishSettings(line_buffer=True), Printer(tagged=True), None, None, lambda _text: None
    )
    began_s = time.process_time()
    finisher.started(cast("Any", Running()), 1, ("a",))
    finisher._followers[1].join()
    assert b"".join(printed) == b"a\tfirst\na\t" + PIECE * PIECES + b"\na\tshort\na\thalf"
    assert time.process_time() - began_s < 5  # it was above 20


def test_nor_where_somebody_follows(tmp_path: Path) -> None:
    wanted = b"".join(Running().follow())
    (tmp_path / "out").write_bytes(wanted)
    printed = io.BytesIO()
    output = _Output("a", tagged=True, fd=os.open(tmp_path / "out", os.O_RDONLY))
    end = 0
    began_s = time.process_time()
    for piece in Running().follow():
        end += len(piece)
        output.print_until(end, printed)
    output.close(printed)
    assert printed.getvalue() == b"".join(b"a\t" + line + b"\n" for line in wanted.split(b"\n"))
    assert time.process_time() - began_s < 5


def test_a_signal_knows_that_the_log_of_jobs_may_wait_for_a_reader() -> None:
    waited = []

    class Log:
        def add(self, _entry: object) -> None:
            waited.append(finisher.waits)

    log = cast("Any", Log())
    finisher = Finisher(FinishSettings(), Printer(tagged=False), None, log, lambda _text: None)
    output = Output.in_memory(b"", chunks=0)
    done = Finished(1, ("a",), "true a", None, Outcome("done", 0.0, 0.0), output, None)
    finisher.finished(done, again=False, interrupted=False)
    assert (waited, finisher.waits) == ([True], False)

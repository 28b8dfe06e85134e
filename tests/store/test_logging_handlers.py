"""What an output loses to a handler of logging that raises: nothing."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector import SpillManager
from collector.logger import PackageLogger

pytestmark = pytest.mark.usefixtures("process_ends")


class Raises(logging.Handler):
    """Raises for each record."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: type[BaseException] = ZeroDivisionError
        self.places: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.places.append((record.filename, record.funcName or ""))
        raise self.raised("of a handler")


@pytest.fixture
def raises() -> Iterator[Raises]:
    """A handler of the logger of this package, which logs all while it is there."""
    handler, logger = Raises(), logging.getLogger("collector")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_manager_loses_nothing_to_a_handler_that_raises(
    raises: Raises, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with SpillManager(4, temp_root=tmp_path) as manager:
        assert [manager.write(b"ab") for _ in range(4)] == [2, 2, 2, 2]
        output = manager.finalize()
    with output:
        assert output.read() == b"abababab"
    assert ("spill.py", "_switch") in raises.places, "a record says where it was made"
    assert "ZeroDivisionError: of a handler" in capfd.readouterr().err


def test_a_ctrl_c_in_a_handler_passes_in_the_main_thread(raises: Raises) -> None:
    raises.raised = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        PackageLogger().warning("text")


@pytest.mark.parametrize("steers", ["\x1b]0;x\x07", "\x9b2J", "\n", "\u202e", "\udcff"])
def test_what_is_logged_steers_no_terminal(steers: str, caplog: pytest.LogCaptureFixture) -> None:
    error = OSError(5, f"refused{steers}", f"a{steers}")
    PackageLogger().warning("%s: %s, %d of %r", Path(f"b{steers}"), f"c{steers}", 7, [steers])
    PackageLogger().warning("%s", error)
    (first, second) = (record.getMessage() for record in caplog.records)
    assert first.isprintable()
    assert second.isprintable()
    told = steers.encode("unicode_escape", "surrogatepass").decode()
    assert first.startswith(f"b{told}: c{told}, 7 of ['")
    assert f"refused{told}" in second

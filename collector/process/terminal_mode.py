"""Tells another process how a terminal's mode was changed, so that it can restore it.

Runs in:    the parent, which changes it, and the sink, which outlives the parent.
"""

import json
from typing import Any, Final

_STDERR: Final = 2


def told(before: list[Any], changed: list[Any]) -> str:
    """Return what `give_back` needs: two modes as `termios` has them."""
    return json.dumps([_numbers(before), _numbers(changed)])


def give_back(told: str) -> None:
    """Restore the mode of the terminal that is stderr, unless others have set another one since.

    Raises:
        OSError: It is no terminal, or has gone.
    """
    import termios  # noqa: PLC0415 - there is none on every system

    before, changed = json.loads(told)
    try:
        if _numbers(termios.tcgetattr(_STDERR)) == changed:
            termios.tcsetattr(_STDERR, termios.TCSANOW, before)
    except termios.error as error:
        raise OSError(*error.args) from error


def _numbers(mode: list[Any]) -> list[Any]:
    *flags, chars = mode
    return [*flags, [char if isinstance(char, int) else char[0] for char in chars]]

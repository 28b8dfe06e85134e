"""Say what jobs wait for, beside workers: a closed gate, a pause before they run again.

Runs in:    the parent; pure.
"""

import math
from collections.abc import Iterable

from collector.process.scheduler.gates import Waits


def waits_text(waits: Iterable[Waits], now_s: float) -> str:
    """Return it in a line; nothing, if no job waits for more than its turn.

    Args:
        waits: What jobs wait for.
        now_s: The time, by the clock of the scheduler.
    """
    return "; ".join(filter(None, (_text(one, now_s) for one in waits)))


def _text(waits: Waits, now_s: float) -> str:
    jobs = "1 job waits" if waits.jobs == 1 else f"{waits.jobs} jobs wait"
    left_s = max(0, math.ceil(waits.until_s - now_s)) if waits.until_s < math.inf else None
    if waits.why == "closed":
        return f"{jobs} for {waits.resource}, which has asked for a pause of {left_s} s more"
    if waits.why == "trying":
        return f"{jobs} for {waits.resource}, which one job tries after a pause"
    if waits.why == "again":
        return f"{jobs} to be run again, the first in {left_s} s"
    return ""  # as many run as may: that is work, no pause

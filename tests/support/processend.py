"""Do within a test what the end of the process does to the run directories that it made alone."""

import gc

from collector.store.rundir import cleanup


def end_of_process() -> None:
    """Collect what is not referenced any more, then clean up as at exit, handlers included."""
    gc.collect()
    forget = cleanup.on_exit(lambda: None)
    cleanup.clean_up()
    forget()

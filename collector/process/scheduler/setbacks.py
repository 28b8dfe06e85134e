"""How often things went wrong in a row: when a Collector had better give up."""

from dataclasses import dataclass

from collector import settings


@dataclass(slots=True)
class Setbacks:
    """Counts of failures with no success in between."""

    early_deaths: int = 0
    """Of workers, before they were ready."""
    failed_starts: int = 0
    """Of workers, where no process was to be had."""
    hindered: bool = False
    """Whether that was so when it was tried last."""
    sink_deaths: int = 0
    """Of sinks, while no job was finished."""

    def no_process(self) -> None:
        """No process is to be had now; of several that were to be started together one counts."""
        self.failed_starts += not self.hindered
        self.hindered = True

    @property
    def too_many_early_deaths(self) -> bool:
        """Whether workers keep dying before they do anything."""
        return self.early_deaths >= settings.WORKER_START_DEATHS_LIMIT

    @property
    def too_many_failed_starts(self) -> bool:
        """Whether no process is to be had, again and again."""
        return self.failed_starts >= settings.WORKER_START_DEATHS_LIMIT

    @property
    def too_many_sink_deaths(self) -> bool:
        """Whether the sink keeps dying while nothing gets done."""
        return self.sink_deaths >= settings.SINK_DEATHS_LIMIT

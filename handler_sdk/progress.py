"""Progress of a running job."""

from collections.abc import Callable, Mapping
from typing import Any

Reporter = Callable[[Mapping[str, Any], Any], None]

_reporter: Reporter | None = None


def progress_update(job: Mapping[str, Any], progress: Any) -> None:
    """Shows `progress` (anything that is JSON) as the output of the running job until it ends; the latest one wins.

    May be called from any thread of the handler's process. Once the job has ended, and in other processes, it does
    nothing. Raises ValueError when `progress` is not JSON or has more bytes than a chunk may have.
    """
    if _reporter is not None:
        _reporter(job, progress)


def report_to(reporter: Reporter | None) -> None:
    """Sends all further progress of this process to `reporter`."""
    global _reporter
    _reporter = reporter

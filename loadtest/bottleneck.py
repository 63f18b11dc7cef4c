"""Whether the tool itself was what limited a test."""

from collections.abc import Mapping

from .histogram import Percentiles
from .timings import LAG, LATE

BUSY = 0.9
"""A second in which a process had more of a processor is a busy one."""

MOST_BUSY = 0.01
LATE_MS = 10.0
"""Above these a figure says more about this tool than about the server."""


def reasons(timings: Mapping[str, Percentiles], busy_share: float) -> list[str]:
    """Why it was; [] when it was not. `busy_share`: how many of the processes' seconds were busy ones, 0 to 1."""
    found = []
    if busy_share > MOST_BUSY:
        found.append(f"in {busy_share:.0%} of the seconds a process was more than {BUSY:.0%} busy")
    for name, what in ((LATE, "it came late to what was due"), (LAG, "the event loop was late")):
        p99 = timings[name].p99 if name in timings else 0.0
        if p99 > LATE_MS:
            found.append(f"{what}: p99 is {p99:,.1f} ms")
    return found

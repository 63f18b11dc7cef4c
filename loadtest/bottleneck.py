"""Whether the tool itself was what limited a test."""

from collections.abc import Mapping

from .histogram import Percentiles
from .timings import LAG, LATE

BUSY = 0.9
LATE_MS = 10.0
"""Above these a figure says more about this tool than about the server."""


def reasons(timings: Mapping[str, Percentiles], busiest: float) -> list[str]:
    """Why it was; [] when it was not. `busiest`: the processor's share that a process had in a second, at most."""
    found = []
    if busiest > BUSY:
        found.append(f"a process was {busiest:.0%} busy in some second")
    for name, what in ((LATE, "it came late to what was due"), (LAG, "the event loop was late")):
        p99 = timings[name].p99 if name in timings else 0.0
        if p99 > LATE_MS:
            found.append(f"{what}: p99 is {p99:,.1f} ms")
    return found

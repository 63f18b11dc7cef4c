"""Two results side by side."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .results import Results, Second
from .significance import p_value_of_series
from .thresholds import changed, measured
from .timings import LAG, LATE, TIMINGS

PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
UNLIKELY = 0.01
"""A difference counts when chance would make one like it less often."""

LEAST_CHANGE = 0.01


class Line(NamedTuple):
    """A metric in both, None where it was not measured; `p`: how likely chance is to make such a difference."""

    metric: str
    before: float | None
    after: float | None
    p: float

    @property
    def change(self) -> float | None:
        """As a share of what was before."""
        return None if self.before is None or self.after is None else changed(self.before, self.after)

    @property
    def is_significant(self) -> bool:
        """Whether it is worth a look."""
        return self.p < UNLIKELY and self.change is not None and abs(self.change) >= LEAST_CHANGE


def compare(before: Results, after: Results) -> list[Line]:
    """All metrics that either has, the significant ones first, of these the largest changes.

    The seconds of the tests are the samples.
    """
    lines = [
        Line(metric, measured(before, metric), measured(after, metric),
             p_value_of_series(_sample(before, look), _sample(after, look)))
        for metric, look in _metrics(before, after)
    ]  # fmt: skip
    return sorted(lines, key=lambda line: -abs(line.change or 0.0) if line.is_significant else 1.0)


Look = Callable[[Second], float | None]


def _metrics(*results: Results) -> Iterator[tuple[str, Look]]:
    yield "throughput", lambda second: second.succeeded
    yield "errors", _error_share
    if any(each.ramp is not None for each in results):
        yield "knee", lambda _: None
    present = {name for each in results for name in each.timings}
    for timing in TIMINGS:
        if timing in present and timing not in (LAG, LATE):
            for percentile in PERCENTILES:
                yield f"{timing}.{percentile}", _percentile(timing, percentile.replace(".", "_"))


def _error_share(second: Second) -> float | None:
    ended = second.succeeded + second.failed
    return second.failed / ended if ended else None


def _percentile(timing: str, field: str) -> Look:
    def look(second: Second) -> float | None:
        found = second.timings.get(timing)
        return None if found is None else float(getattr(found, field))

    return look


def _sample(results: Results, look: Look) -> list[float]:
    seconds = (look(second) for second in results.series if second.second < results.totals.seconds)
    return [value for value in seconds if value is not None]

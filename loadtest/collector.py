"""What all processes have seen, put together."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from .bottleneck import BUSY
from .histogram import Histogram
from .plan import Plan
from .recorder import Window
from .results import ErrorClass, Part, Second, Timing, Totals
from .timings import LATENCY


class Tally:
    """Sums over some seconds."""

    def __init__(self) -> None:
        self.offered = self.sent = self.succeeded = self.abandoned = self.open = 0
        self.errors: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.histograms: dict[str, Histogram] = {}

    @property
    def failed(self) -> int:
        """Operations that failed."""
        return self.errors.total()

    @property
    def error_share(self) -> float:
        """Of all that ended, 0 to 1."""
        return self.failed / max(1, self.failed + self.succeeded)

    def add(self, window: Window) -> None:
        """Adds a second of one process."""
        self.offered += window.offered
        self.sent += window.sent
        self.succeeded += window.succeeded
        self.abandoned += window.abandoned
        self.open += window.open
        self.errors.update(window.errors)
        self.counts.update(window.counts)
        for name, encoded in window.histograms.items():
            self.histograms.setdefault(name, Histogram()).add(encoded)

    def merge(self, other: "Tally") -> None:
        """Adds what another one has."""
        for name in ("offered", "sent", "succeeded", "abandoned", "open"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        self.counts.update(other.counts)
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).merge(histogram)

    def second(self, number: int) -> Second:
        """As it stands in the results."""
        return Second(
            second=number, offered=self.offered, sent=self.sent, succeeded=self.succeeded, failed=self.failed,
            open=self.open, errors=dict(self.errors), counts=dict(self.counts),
            timings={name: histogram.percentiles() for name, histogram in self.histograms.items()},
        )  # fmt: skip

    def part(self, begin: int, seconds: float) -> Part:
        """As a part of a test."""
        latency = self.histograms.get(LATENCY, Histogram()).percentiles()
        return Part(
            begin=begin, seconds=seconds, offered_rate=self.offered / seconds, throughput=self.succeeded / seconds,
            error_share=self.error_share, p50=latency.p50, p99=latency.p99,
        )  # fmt: skip


class Collector:
    """Takes windows, gives seconds.

    Args:
        parts: ranges of seconds of which sums are wanted besides.
    """

    def __init__(self, plan: Plan, parts: Iterable[range] = ()) -> None:
        self.seconds: list[Second] = []
        self.total = Tally()
        self.parts = {part: Tally() for part in parts}
        self.busiest = 0.0
        """The processor's share that a process had in a second, at most."""
        self._busy = self._windows = 0
        self._within = Tally()
        self._duration = plan.measured
        self._open: dict[int, Tally] = {}
        self._told = dict.fromkeys(range(plan.processes), 0.0)
        self._examples: dict[str, str] = {}
        self._retry_after = 0.0

    def add(self, process: int, window: Window | None) -> Iterator[Second]:
        """Takes a window, or None for the end of a process. Gives the seconds that all have told of with that."""
        if window is None:
            self._told[process] = math.inf
        else:
            self._told[process] = window.second + 1
            self._add(window)
        while self._open and (number := min(self._open)) < min(self._told.values()):
            second = self._open.pop(number).second(number)
            if number < self._duration or second.succeeded or second.failed or second.open:
                self.seconds.append(second)
                yield second

    def _add(self, window: Window) -> None:
        self._open.setdefault(window.second, Tally()).add(window)
        self.total.add(window)
        if window.second < self._duration:
            self._within.add(window)
        for seconds, tally in self.parts.items():
            if window.second in seconds:
                tally.add(window)
        self._examples = window.examples | self._examples
        self._retry_after = max(self._retry_after, window.retry_after)
        self.busiest = max(self.busiest, window.busy)
        if window.second < self._duration:
            self._busy += window.busy > BUSY
            self._windows += 1

    @property
    def busy_share(self) -> float:
        """Of the seconds in which the processes sent, how many were busy ones, 0 to 1."""
        return self._busy / max(1, self._windows)

    def totals(self, elapsed: float) -> Totals:
        """Sums of all. `elapsed`: for how many seconds operations were sent that count."""
        seconds = max(elapsed, 1e-3)
        total, within = self.total, self._within
        return Totals(
            seconds=round(seconds, 3), offered=total.offered, sent=total.sent, succeeded=total.succeeded,
            failed=total.failed, abandoned=total.abandoned, offered_rate=round(total.offered / seconds, 3),
            throughput=round(within.succeeded / seconds, 3), error_share=total.error_share,
            counts=dict(total.counts), retry_after_seconds=self._retry_after,
            counted_rates={name: round(count / seconds, 3) for name, count in within.counts.items()},
        )  # fmt: skip

    def timings(self) -> dict[str, Timing]:
        """All histograms."""
        return {name: Timing.of(histogram) for name, histogram in sorted(self.total.histograms.items())}

    def errors(self) -> dict[str, ErrorClass]:
        """All classes of errors, the most frequent first."""
        return {
            kind: ErrorClass(count=count, example=self._examples.get(kind, ""))
            for kind, count in self.total.errors.most_common()
        }

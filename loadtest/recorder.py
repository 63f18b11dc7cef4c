"""What one process has seen, second by second."""

import time

import msgspec

from .errors import Failed
from .histogram import Histogram
from .timings import LATENCY, SERVICE

LEAST_FOR_BUSY = 0.5
"""Seconds: shorter windows, as the last one, say nothing about a processor."""


class Window(msgspec.Struct, tag=True, kw_only=True):
    """A second of one process.

    Args:
        second: which, from the end of the warm-up on.
        offered: operations whose intended time was in it.
        sent: those that were really sent in it.
        abandoned: those that were unfinished when the test was broken off.
        open: unfinished operations at its end.
        errors: how many operations failed, by class; `examples` has a text of the server's for some.
        retry_after: the most seconds that an answer with 429 said to wait.
        counts: jobs, chunks and tokens; `throttled_polls`, 429s that were answered to a look at a job.
        histograms: encoded, by name.
        busy: the processor's share that this process had, of 1.
    """

    second: int
    offered: int = 0
    sent: int = 0
    succeeded: int = 0
    abandoned: int = 0
    open: int = 0
    errors: dict[str, int] = {}
    examples: dict[str, str] = {}
    retry_after: float = 0.0
    counts: dict[str, int] = {}
    histograms: dict[str, str] = {}
    busy: float = 0.0


class Recorder:
    """Gathers a window."""

    def __init__(self) -> None:
        self._begin(0)

    def start(self) -> None:
        """From now on it is seen how busy the processor is."""
        self._began, self._processor_began = time.monotonic(), time.process_time()

    def _begin(self, second: int) -> None:
        self.window = Window(second=second)
        self._histograms: dict[str, Histogram] = {}
        self.start()

    def value(self, name: str, seconds: float) -> None:
        """Adds a time to one of `TIMINGS`."""
        histogram = self._histograms.get(name)
        if histogram is None:
            histogram = self._histograms[name] = Histogram()
        histogram.record(seconds)

    def count(self, name: str, more: int = 1) -> None:
        """Adds to a count."""
        counts = self.window.counts
        counts[name] = counts.get(name, 0) + more

    def failed(self, failure: Failed) -> None:
        """An operation failed."""
        window = self.window
        window.errors[failure.kind] = window.errors.get(failure.kind, 0) + 1
        if failure.example:
            window.examples.setdefault(failure.kind, failure.example)
        window.retry_after = max(window.retry_after, failure.retry_after or 0.0)

    def take(self, open: int) -> Window:
        """The window, which ends with that; another begins."""
        window = self.window
        window.open = open
        window.histograms = {name: histogram.encode() for name, histogram in self._histograms.items()}
        elapsed = time.monotonic() - self._began
        if elapsed >= LEAST_FOR_BUSY:
            window.busy = (time.process_time() - self._processor_began) / elapsed
        self._begin(window.second + 1)
        return window


class Trial:
    """One operation under way.

    Args:
        recorder: of what is seen of it.
        intended: when it should have been sent, on the monotonic clock.
    """

    def __init__(self, recorder: Recorder, intended: float) -> None:
        self.recorder = recorder
        self.operation = ""
        """In a mixture: which of its operations this is."""
        self.accepted = False
        """Whether the server has taken a job."""
        self.awaited = LATENCY
        """Which of `TIMINGS` ends with what is waited for; "" for none."""
        self._came = time.monotonic()
        self._sent: float | None = None
        self._intended = min(intended, self._came)

    @property
    def seconds(self) -> float:
        """For how long it has been under way, or has waited for a connection: what counts for its timeout."""
        return time.monotonic() - self._came

    def send(self) -> None:
        """It is sent now."""
        self._sent = time.monotonic()
        self.recorder.window.sent += 1

    def since_intended(self, name: str) -> None:
        """Something has come: adds how long it took to one of `TIMINGS`."""
        self.recorder.value(name, time.monotonic() - self._intended)

    def answered(self, awaited: str = "") -> None:
        """The answer that counts is complete. `awaited`: what is waited for now."""
        now = time.monotonic()
        self.recorder.value(LATENCY, now - self._intended)
        if self._sent is not None:
            self.recorder.value(SERVICE, now - self._sent)
        if self.operation:
            self.recorder.value(self.operation, now - self._intended)
        self.awaited = awaited

    def expired(self) -> None:
        """What is waited for did not come in time: it took so long at least. Else the slowest would be missing."""
        if self.awaited == LATENCY:
            self.answered()
        elif self.awaited:
            self.since_intended(self.awaited)

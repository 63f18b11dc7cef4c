"""One load test, from the begin to the results."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

import handler_sdk

from . import ramp
from .bottleneck import reasons
from .collector import Collector
from .fleet import Fleet
from .plan import Plan
from .results import Drift, Generator, Ramp, Results, Second, Server

QUARTERS = 4


class Interruption:
    """Whether there was a Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Inside, the first one is remembered; a second one ends the program as ever."""
        before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, _: object) -> None:
        self.came = True
        signal.signal(number, signal.SIG_DFL)


def conduct(
    plan: Plan, inputs: list[msgspec.Raw], key: str | None, server: Server, show: Callable[[Second], None]
) -> Results:
    """Does what is planned. A Ctrl-C ends it early, with the results so far.

    Args:
        inputs: of the jobs, in turn.
        show: is given each second when it is over.

    Raises:
        NotUsable: the load could not begin.
    """
    interruption = Interruption()
    collector = Collector(plan, _parts(plan))
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with interruption.heeded(), Fleet(plan, inputs, key) as fleet:
        fleet.begin()
        for reports in fleet.windows():
            seconds = [second for process, window in reports for second in collector.add(process, window)]
            for second in seconds:
                show(second)
            if interruption.came or (seconds and plan.ramp and _ramp(plan, collector).reached):
                fleet.stop()
    stopped = fleet.stopped_at or math.inf
    totals = collector.totals(min(plan.measured, stopped - fleet.began - plan.warm_up))
    timings = collector.timings()
    found = Generator(
        version=handler_sdk.__version__, processors=os.cpu_count() or 1, busy=round(collector.busiest, 3),
        bottleneck=reasons(timings, collector.busiest),
    )  # fmt: skip
    return Results(
        started_at=started_at, interrupted=interruption.came, parameters=plan, server=server, totals=totals,
        timings=timings, errors=collector.errors(), series=collector.seconds, generator=found,
        ramp=_ramp(plan, collector) if plan.ramp else None, drift=_drift(plan, collector),
    )  # fmt: skip


def _parts(plan: Plan) -> list[range]:
    if plan.ramp:
        return ramp.parts(plan)
    if plan.scenario != "soak":
        return []
    quarter = max(1, round(plan.duration) // QUARTERS)
    return [range(quarter), range(round(plan.duration) - quarter, round(plan.duration))]


def _ramp(plan: Plan, collector: Collector) -> Ramp:
    return ramp.judge(plan, collector.parts, len(collector.seconds))


def _drift(plan: Plan, collector: Collector) -> Drift | None:
    if plan.scenario != "soak" or len(collector.seconds) < round(plan.duration):
        return None
    first, last = (tally.part(seconds.start, len(seconds)) for seconds, tally in collector.parts.items())
    return Drift(first=first, last=last)

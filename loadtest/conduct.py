"""One load test, from the begin to the results."""

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

import handler_sdk

from . import ramp
from .bottleneck import reasons
from .collector import Collector, Tally
from .fleet import Fleet
from .plan import Plan
from .results import Drift, Generator, Part, Results, Second, Server

BLOCKS = 16
"""A soak is summed up in so many parts. The first quarter of those that were complete at its end, however it ended, is
compared with the last one."""


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
    due = ramp.due(plan)
    started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with interruption.heeded(), Fleet(plan, inputs, key) as fleet:
        fleet.begin(lambda: interruption.came)
        for reports in fleet.windows():
            seconds = [second for process, window in reports for second in collector.add(process, window)]
            for second in seconds:
                show(second)
            if interruption.came or (seconds and plan.ramp and _is_over(plan, collector, due)):
                fleet.stop()
    stopped = fleet.stopped_at or math.inf
    elapsed = min(plan.measured, stopped - fleet.began - plan.warm_up)
    totals = collector.totals(elapsed)
    told = int(elapsed) if interruption.came else len(collector.seconds)
    timings = collector.timings()
    found = Generator(
        version=handler_sdk.__version__, processors=os.cpu_count() or 1, busy=round(collector.busiest, 3),
        bottleneck=reasons(timings, collector.busy_share), lost=fleet.lost,
    )  # fmt: skip
    return Results(
        started_at=started_at, interrupted=interruption.came, parameters=plan, server=server, totals=totals,
        timings=timings, errors=collector.errors(), series=collector.seconds, generator=found,
        ramp=ramp.judge(plan, collector.parts, due, told) if plan.ramp else None, drift=_drift(plan, collector, told),
    )  # fmt: skip


def _parts(plan: Plan) -> list[range]:
    if plan.ramp:
        return ramp.parts(plan)
    if plan.scenario != "soak":
        return []
    seconds = round(plan.duration)
    blocks = min(BLOCKS, seconds)
    return [range(number * seconds // blocks, (number + 1) * seconds // blocks) for number in range(blocks)]


def _is_over(plan: Plan, collector: Collector, due: Sequence[float]) -> bool:
    return ramp.judge(plan, collector.parts, due, len(collector.seconds)).reached


def _drift(plan: Plan, collector: Collector, told: int) -> Drift | None:
    """None when there was too little to compare. `told`: seconds of which all is known."""
    if plan.scenario != "soak":
        return None
    blocks = [(seconds, tally) for seconds, tally in collector.parts.items() if seconds.stop <= told]
    quarter = max(1, len(blocks) // 4)
    return Drift(first=_together(blocks[:quarter]), last=_together(blocks[-quarter:])) if len(blocks) > 1 else None


def _together(blocks: Sequence[tuple[range, Tally]]) -> Part:
    total = Tally()
    for _, tally in blocks:
        total.merge(tally)
    begin, end = blocks[0][0].start, blocks[-1][0].stop
    return total.part(begin, end - begin)
